"""SVI with an AutoDelta guide, a parameter store of its own, and one epoch of it."""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal

import pyro
import torch
from pyro.infer import SVI
from pyro.infer.autoguide import AutoDelta, init_to_median
from pyro.optim import PyroOptim
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import transform_to

from pyro_bayesprune._utils.process import flushed_denormals
from pyro_bayesprune._utils.random import random_stream, seeded
from pyro_bayesprune.models.buffers import attribute_shapes, buffers_of, set_buffers
from pyro_bayesprune.models.module import (
    BayesianModule,
    Masks,
    Model,
    Weights,
    evaluation_mode,
    network,
)
from pyro_bayesprune.models.refusals import normalises_batches
from pyro_bayesprune.models.sites import inspect_model, is_fixed
from pyro_bayesprune.models.sparse import Surviving, worthwhile
from pyro_bayesprune.training.elbo import PointELBO, alike, fixed_priors, point
from pyro_bayesprune.training.optimizer import JointOptim, couples_decay
from pyro_bayesprune.training.prior_gradients import weight_decay

Objective = Literal["map", "mle"]


class TrainingDiverged(RuntimeError):
    """A loss or a weight became NaN or infinite.

    Args:
        epoch: counted from 1.
        step: counted from 1 within the epoch.
        what: what is not finite, e.g. "the loss became nan".
    """

    def __init__(self, epoch: int, step: int, what: str) -> None:
        super().__init__(
            f"{what} in epoch {epoch}, step {step}: lower the learning rate, or "
            f"look at the prior and the inputs"
        )
        self.epoch, self.step = epoch, step


class _Renamed(Messenger):
    """Gives the sites of a model names that a guide can have as attributes.

    Site names become attributes of Pyro's guides: a site ``model.weight``, or ``fc.weight`` beside
    ``fc.weight.scale``, cannot be one. Sites with a Delta prior are hidden: they are fixed.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        super().__init__()
        self.names = names

    def _pyro_sample(self, msg: Any) -> None:  # noqa: ANN401
        if is_fixed(msg):
            msg["stop"] = True
        msg["name"] = self.names.get(msg["name"], msg["name"])


class Trainer:
    """One fit's model, guide, optimiser and its own parameter store."""

    def __init__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        *,
        initial_weights: Mapping[str, Tensor],
        optim: PyroOptim,
        objective: Objective,
        temperature: float,
        seed: int,
    ) -> None:
        self.model, self.x, self.y, self.seed = model, x, y, seed
        self.attributes = attribute_shapes(model)
        self.held_sites: list[str] = []
        self.store_state: dict[str, Any] = {"params": {}, "constraints": {}}
        own = _own_weights(model)
        start = own | dict(initial_weights)

        names = inspect_model(model, x, y).latent
        guide_names = {name: f"site_{i}" for i, name in enumerate(names)}
        site_names = {short: name for name, short in guide_names.items()}

        def initial(site: dict) -> Tensor:
            value = start.get(site_names[site["name"]])
            return init_to_median(site) if value is None else value.detach().clone()

        self.guide_names = guide_names
        self.guide = AutoDelta(_Renamed(guide_names)(model), init_loc_fn=initial)
        self.guide.site_names = site_names
        with self.scope(), seeded(seed, "initial"), evaluation_mode(model), torch.enable_grad():
            self.guide(x[:2], y[:2])
            self.params = {n: leaf(v) for n, v in point(self.guide).items()}
        start.clear()  # or the guide holds them as long as it lives
        for name, weight in own.items():
            # The store makes values contiguous; a module's own layout (channels_last) is faster.
            weight.copy_(self.params[name].data)
            self.params[name].data = weight
        _forget_values(self.guide)
        decay = _decay(model, optim) if objective == "map" else {}
        self.optim = JointOptim(optim, self.params, {n: d / len(x) for n, d in decay.items()})
        self.elbo = PointELBO(
            scale=1 / len(x),
            temperature=temperature,
            prior=objective == "map",
            decayed=frozenset(decay),
        )
        self.svi = SVI(model, self.guide, self.optim, loss=self.elbo)

    def scope(self) -> AbstractContextManager[Any]:
        """Enter the fit's own parameter store."""
        return own_store(self.store_state)

    def weights(self) -> Weights:
        """Return a copy of the guide's point."""
        with self.scope(), torch.no_grad():
            return {n: v.detach().clone() for n, v in point(self.guide).items()}

    def buffers(self) -> dict[str, Tensor]:
        """Return a copy of the module's buffers."""
        return buffers_of(self.model, self.attributes)

    def restore(self, buffers: Mapping[str, Tensor]) -> None:
        """Set the module's buffers."""
        module = network(self.model)
        if module is not None:
            set_buffers(module, buffers)

    def settle(self) -> None:
        """Set parameters behind constrained sites (scales) to what their values are read back to.

        A continued fit starts from values, and log(exp(t)) need not be t: so the undisturbed one
        goes on from there too.
        """
        for name, value in self.weights().items():
            if not torch.equal(value, self.params[name]):
                self.set(name, value)

    def set(self, name: str, value: Tensor) -> None:
        """Set a site's value: its parameter is what the guide reads it from."""
        constraint = self.store_state["constraints"][
            f"{self.guide._pyro_name}.{self.guide_names[name]}"
        ]
        self.params[name].data = transform_to(constraint).inv(value.to(self.params[name]))

    def hold(self, names: Iterable[str]) -> None:
        """Train these sites by no gradient: `set` moves them."""
        self.held_sites = list(names)
        for name in self.held_sites:
            self.params[name].requires_grad_(False)

    def project(self, masks: Masks, *, hold: bool) -> None:
        """Zero pruned weights and moments; with ``hold``, train under the masks from now on."""
        for name, mask in masks.items():
            self.params[name].data.masked_fill_(~mask, 0)
        self.optim.mask_moments(masks)
        self.elbo.set_masks(masks if hold else {})

    @contextmanager
    def under_masks(self) -> Iterator[None]:
        """Train under the masks by what costs least: see `JointOptim.held` and `sparse`."""
        masks = self.elbo.masks
        few = self._few(masks)
        vectors = {n: self.params[n].detach()[m].requires_grad_() for n, m in few.items()}
        survivors = {n: Surviving.of(self.params[n], v, few[n]) for n, v in vectors.items()}
        rest = {n: m for n, m in masks.items() if n not in few and self.optim.holds(n)}
        elbo = self.elbo.held(survivors, rest)
        with elbo, self.optim.surviving(vectors, few), self.optim.held(rest):
            yield

    def _few(self, masks: Masks) -> Masks:
        """Return the masks of matrices that are better trained as their survivors."""
        model = self.model
        if not isinstance(model, BayesianModule) or not fixed_priors(model):
            return {}
        large = {n: m for n, m in masks.items() if worthwhile(self.params[n], m)}
        return {n: m for n, m in large.items() if alike(model.priors()[n])}

    def run_epoch(self, epoch: int, batch_size: int) -> float:
        """Go once through the data in random order; return the mean loss, nats an example."""
        stream = random_stream(self.seed, "order", epoch)
        order = torch.randperm(len(self.x), generator=stream, device="cpu")
        batches = _batches(order.to(self.x.device), batch_size, self.model)
        total = 0.0
        quiet = pyro.validation_enabled(False)  # or a NaN is an error before it is a loss
        noise = seeded(self.seed, "noise", epoch)
        with self.scope(), noise, flushed_denormals(), quiet, self.under_masks():
            for step, batch in enumerate(batches, start=1):
                loss = self.svi.step(self.x[batch], self.y[batch])
                if not math.isfinite(loss):
                    raise TrainingDiverged(epoch, step, f"the loss became {loss}")
                total += loss * len(batch)
        if not all(param.isfinite().all() for param in self.params.values()):
            raise TrainingDiverged(epoch, step, "a weight became NaN or infinite")
        self.optim.end_epoch(total / len(self.x))
        return total / len(self.x)


@contextmanager
def own_store(state: dict[str, Any]) -> Iterator[None]:
    """Use a parameter store of one's own, with names that no setting of the caller changes."""
    with pyro.settings.context(module_local_params=False):
        with pyro.get_param_store().scope(state):
            yield


def _batches(order: Tensor, batch_size: int, model: Model) -> list[Tensor]:
    """Split an order into batches; a last one of one example joins the one before it.

    BatchNorm cannot normalise a single example. Other networks keep their batches.
    """
    batches = list(order.split(min(batch_size, len(order))))
    if len(batches) > 1 and len(batches[-1]) == 1 and normalises_batches(model):
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def _forget_values(guide: AutoDelta) -> None:
    """Drop the values in the guide's prototype: a copy of all weights that nobody reads."""
    for _, site in guide.prototype_trace.iter_stochastic_nodes():
        site["value"] = None


def leaf(value: Any) -> Tensor:  # noqa: ANN401  (Pyro adds an attribute to a tensor)
    """Return the unconstrained parameter behind a value of `pyro.param`."""
    return value.unconstrained()


def _own_weights(model: Model) -> Weights:
    module = network(model)
    if not isinstance(module, BayesianModule):
        return {}
    return {name: p.detach() for name, p in module.named_weights().items()}


def _decay(model: Model, optim: PyroOptim) -> dict[str, float]:
    """Precisions of the priors whose gradient the optimiser can add as coupled weight decay."""
    if not isinstance(model, BayesianModule) or not fixed_priors(model):
        return {}
    decays = {name: weight_decay(prior) for name, prior in model.priors().items()}
    return {n: d for n, d in decays.items() if d is not None and couples_decay(optim, n)}
