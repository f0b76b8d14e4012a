"""Stochastic variational inference (SVI) with an AutoDelta guide and a separate store."""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI
from pyro.infer.autoguide import AutoDelta
from pyro.optim import PyroOptim
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import transform_to

from pyro_bayesprune._utils.process import flushed_denormals
from pyro_bayesprune._utils.random import seeded
from pyro_bayesprune.data.inputs import Inputs
from pyro_bayesprune.data.loading import Data, as_batches
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
from pyro_bayesprune.models.sites import inspect_model, is_fixed, median_of
from pyro_bayesprune.models.sparse import Surviving, worthwhile
from pyro_bayesprune.pruning.registry import Objective
from pyro_bayesprune.training.elbo import PointELBO, has_equal_elements, point
from pyro_bayesprune.training.gradients import fixed_priors
from pyro_bayesprune.training.optimizer import JointOptim, couples_decay
from pyro_bayesprune.training.parameters import Parameters
from pyro_bayesprune.training.prior_gradients import weight_decay

UNREAD = 64  # losses that stay on a device before they are read together


class TrainingDiverged(RuntimeError):
    """A loss or a weight became NaN or infinite.

    Args:
        epoch: counted from 1.
        step: counted from 1 within the epoch.
        what: description, e.g. "the loss became nan".
    """

    def __init__(self, epoch: int, step: int, what: str) -> None:
        super().__init__(
            f"{what} in epoch {epoch}, step {step}: lower the learning rate, or "
            f"look at the prior and the inputs"
        )
        self.epoch, self.step = epoch, step


class _Renamed(Messenger):
    """Renames the sites of a model and hides sites with a Delta prior, which are constant.

    Site names become attributes of Pyro's guides. Names such as ``model.weight``, or ``fc.weight``
    together with ``fc.weight.scale``, cannot be attributes.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        super().__init__()
        self.names = names

    def _pyro_sample(self, msg: Any) -> None:  # noqa: ANN401
        if is_fixed(msg):
            msg["stop"] = True
        msg["name"] = self.names.get(msg["name"], msg["name"])


class _SVI(SVI):
    """Pyro's SVI for `JointOptim`. It does not read the loss, for which a device would stop."""

    def step(self, x: Inputs, y: Tensor) -> Any:  # noqa: ANN401
        """Take a step, and return the loss as `PointELBO.loss_and_grads` does."""
        loss = self.loss_and_grads(self.model, self.guide, x, y)
        self.optim(None)
        return loss


class Trainer(Parameters):
    """The model, guide, optimiser and separate parameter store of one fit."""

    def __init__(
        self,
        model: Model,
        data: Data,
        *,
        initial_weights: Mapping[str, Tensor],
        optim: PyroOptim,
        objective: Objective,
        temperature: float,
        seed: int,
    ) -> None:
        self.model, self.data, self.seed = model, as_batches(data), seed
        self.temperature = temperature
        self.attributes = attribute_shapes(model)
        self.frozen_sites: list[str] = []
        self.store_state: dict[str, Any] = {"params": {}, "constraints": {}}
        module_weights = _module_weights(model)
        self._set_up_guide(module_weights | dict(initial_weights))
        for name, weight in module_weights.items():
            # The store makes values contiguous; a module's own layout (channels_last) is faster.
            weight.copy_(self.params[name].data)
            self.params[name].data = weight
        num_data = self.num_data
        decay = _decay(model, self.params, optim) if objective == "map" else {}
        self.optim = JointOptim(optim, self.params, {n: d / num_data for n, d in decay.items()})
        self.elbo = PointELBO(
            scale=1 / num_data,
            temperature=temperature,
            prior=objective == "map",
            decayed=frozenset(decay),
        )
        self.svi = _SVI(model, self.guide, self.optim, loss=self.elbo)

    def _set_up_guide(self, start: Weights) -> None:
        """Create the guide and its parameters at the values ``start`` or at the prior's median."""
        few, device = self.data.first(2), self.data.device
        sites = inspect_model(self.model, *few)
        names, self.num_data = sites.latent, sites.num_data
        self.guide_names = {name: f"site_{i}" for i, name in enumerate(names)}
        site_names = {short: name for name, short in self.guide_names.items()}

        def initial(site: dict) -> Tensor:
            value = start.get(site_names[site["name"]])
            return median_of(site, device) if value is None else value.detach().clone().to(device)

        self.guide = AutoDelta(_Renamed(self.guide_names)(self.model), init_loc_fn=initial)
        self.guide.site_names = site_names
        mode = evaluation_mode(self.model)
        with self.scope(), seeded(self.seed, "initial", device=device), mode, torch.enable_grad():
            self.guide(*few)
            values: dict[str, Any] = point(self.guide)  # Pyro adds an attribute to the tensors
            self.params = {name: value.unconstrained() for name, value in values.items()}
        # The guide would otherwise store two copies of all weights.
        start.clear()
        for _, site in self.guide.prototype_trace.iter_stochastic_nodes():
            site["value"] = None

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Use the fit's parameter store, with names that no setting of the caller changes."""
        with pyro.settings.context(module_local_params=False):
            with pyro.get_param_store().scope(self.store_state):
                yield

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

    def set(self, name: str, value: Tensor) -> None:
        """Set the value of a site. The guide computes it from an unconstrained parameter."""
        constraint = self.store_state["constraints"][
            f"{self.guide._pyro_name}.{self.guide_names[name]}"
        ]
        # A copy, since training changes the parameter in place, and the value is that of a state.
        self.params[name].data.copy_(transform_to(constraint).inv(value.to(self.params[name])))

    def freeze(self, names: Iterable[str]) -> None:
        """Train without gradients of these sites, so that only `set` changes them."""
        self.frozen_sites = list(names)
        for name in self.frozen_sites:
            self.params[name].requires_grad_(False)

    def mask_moments(self, masks: Masks) -> None:
        """Zero the moments of pruned weights."""
        self.optim.mask_moments(masks)

    def set_masks(self, masks: Masks) -> None:
        """Train under these masks from now on."""
        self.elbo.set_masks(masks)
        self.optim.masks = self.elbo.masks

    @contextmanager
    def under_masks(self) -> Iterator[None]:
        """Choose for each site the cheapest way to keep pruned weights at zero.

        Large sparse matrices are trained as vectors of their surviving entries. The optimiser fixes
        the pruned entries of other sites if it can. The remaining gradients are masked.
        """
        masks = self.elbo.masks
        sparse = self._sparse_matrices(masks)
        vectors = {n: self.params[n].detach()[m].requires_grad_() for n, m in sparse.items()}
        fixed = {n: m for n, m in masks.items() if n not in sparse and self.optim.can_fix(n)}
        with self.optim.surviving(vectors, sparse), self.optim.fixed_entries(fixed):
            # The patterns use memory that the dense moments have left.
            matrices = {n: Surviving.of(self.params[n], v, sparse[n]) for n, v in vectors.items()}
            with self.elbo.without_masks(matrices, fixed):
                yield

    def _sparse_matrices(self, masks: Masks) -> Masks:
        """Return the masks of matrices for which training the surviving entries is faster."""
        if not self.optim.is_elementwise:
            return {}
        priors = _fixed_priors(self.model, self.params)
        equal = {name for name, prior in priors.items() if has_equal_elements(prior)}
        return {n: m for n, m in masks.items() if n in equal and worthwhile(self.params[n], m)}

    def run_epoch(self, epoch: int, batch_size: int) -> float:
        """Train once on all data in random order, or once on a loader; return the mean loss.

        The unit of the loss is nats an example.
        """
        divide = partial(_batches, batch_size=batch_size, model=self.model)
        losses = _Losses(epoch, 1 if self.data.device.type == "cpu" else UNREAD)
        quiet = pyro.validation_enabled(False)  # otherwise a NaN raises an error first
        noise = seeded(self.seed, "noise", epoch, self.data.device)
        with self.scope(), noise, flushed_denormals(), quiet, self.under_masks():
            for x, y in self.data.epoch(self.seed, epoch, divide):
                losses.add(self.svi.step(x, y), len(y))
            mean = losses.mean()
        if not all(param.isfinite().all() for param in self.params.values()):
            raise TrainingDiverged(epoch, losses.steps, "a weight became NaN or infinite")
        self.optim.end_epoch(mean)
        return mean


class _Losses:
    """The mean loss of an epoch. Those on a device are read when there are ``limit`` of them.

    Raises:
        TrainingDiverged: if one of them is not finite.
    """

    def __init__(self, epoch: int, limit: int) -> None:
        self.epoch, self.limit = epoch, limit
        self.total, self.steps, self.number = 0.0, 0, 0
        self.unread: list[tuple[Any, int]] = []

    def add(self, loss: Any, number: int) -> None:  # noqa: ANN401
        """Add the loss of a step on so many examples."""
        self.unread.append((loss, number))
        if len(self.unread) == self.limit:
            self._read()

    def _read(self) -> None:
        values = [loss for loss, _ in self.unread]
        if isinstance(values[0], Tensor):
            values = torch.stack(values).tolist()
        for loss, (_, number) in zip(values, self.unread, strict=True):
            self.steps += 1
            if not math.isfinite(loss):
                raise TrainingDiverged(self.epoch, self.steps, f"the loss became {loss}")
            self.total, self.number = self.total + loss * number, self.number + number
        self.unread = []

    def mean(self) -> float:
        """Return the mean loss of an example."""
        if self.unread:
            self._read()
        return self.total / self.number


def _batches(order: Tensor, batch_size: int, model: Model) -> list[Tensor]:
    """Split an order into batches.

    BatchNorm cannot normalise a single example, so a last batch of one joins the previous batch.
    """
    batches = list(order.split(min(batch_size, len(order))))
    if len(batches) > 1 and len(batches[-1]) == 1 and normalises_batches(model):
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def _module_weights(model: Model) -> Weights:
    module = network(model)
    if not isinstance(module, BayesianModule):
        return {}
    return {name: p.detach() for name, p in module.named_weights().items()}


def _fixed_priors(model: Model, sites: Iterable[str]) -> dict[str, dist.Distribution]:
    return cast(BayesianModule, model).priors() if fixed_priors(model, sites) else {}


def _decay(model: Model, sites: Iterable[str], optim: PyroOptim) -> dict[str, float]:
    """Return the precisions of priors whose gradient the optimiser adds as coupled weight decay."""
    decays = {name: weight_decay(prior) for name, prior in _fixed_priors(model, sites).items()}
    return {n: d for n, d in decays.items() if d is not None and couples_decay(optim, n)}
