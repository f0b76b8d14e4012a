"""SVI with an AutoDelta guide, a parameter store of its own, and one epoch of it."""

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal

import pyro
import torch
from pyro.infer import SVI
from pyro.infer.autoguide import AutoDelta, init_to_median
from pyro.nn import PyroModule
from pyro.optim import PyroOptim
from torch import Tensor, nn

from pyro_bayesprune.data import random_stream
from pyro_bayesprune.elbo import PointELBO, fixed_priors, point
from pyro_bayesprune.model import BayesianModule, Masks, Model, Weights, evaluation_mode
from pyro_bayesprune.optimizer import COUPLED_DECAY, JointOptim
from pyro_bayesprune.priors import weight_decay

Objective = Literal["map", "mle"]


class TrainingDiverged(RuntimeError):
    """A loss became NaN or infinite.

    Args:
        epoch: counted from 1.
        step: counted from 1 within the epoch.
        loss: what it was.
    """

    def __init__(self, epoch: int, step: int, loss: float) -> None:
        super().__init__(
            f"the loss became {loss} in epoch {epoch}, step {step}: lower the learning rate, or "
            f"look at the prior and the inputs"
        )
        self.epoch, self.step = epoch, step


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Treat denormal numbers as zero (they slow a CPU down once a network fits), then as before."""
    before = (torch.tensor([1e-40]) * 1.0).item() == 0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


@contextmanager
def seeded(seed: int, purpose: str, epoch: int = 0) -> Iterator[None]:
    """Seed torch's global generator (dropout, initial values), then put it back as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(random_stream(seed, purpose, epoch).initial_seed())
        yield


def check_site_names(names: list[str]) -> None:
    """Site names become attributes of the guide: raise a ValueError for those that cannot."""
    guide, module = AutoDelta(lambda: None), PyroModule()
    for name in names:
        first, *rest = name.split(".")
        taken = hasattr(guide, first) or any(hasattr(module, part) for part in rest)
        if taken or any(other.startswith(name + ".") for other in names):
            raise ValueError(
                f"AutoDelta cannot hold a site named {name!r}: a part of it is an attribute of the "
                f"guide or a prefix of another site's name. Rename the module or the site."
            )


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
        self.store_state: dict[str, Any] = {"params": {}, "constraints": {}}
        own = _own_weights(model)
        start = own | dict(initial_weights)

        def initial(site: dict) -> Tensor:
            value = start.get(site["name"])
            return init_to_median(site) if value is None else value.detach().clone()

        self.guide = AutoDelta(model, init_loc_fn=initial)
        with self.scope(), seeded(seed, "initial"), evaluation_mode(model):
            self.guide(x[:2], y[:2])
            self.params = {n: leaf(v) for n, v in point(self.guide).items()}
        for name, weight in own.items():
            # The store makes values contiguous; a module's own layout (channels_last) is faster.
            self.params[name].data = torch.empty_like(weight).copy_(self.params[name].data)
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
        return pyro.get_param_store().scope(self.store_state)

    def weights(self) -> Weights:
        """Return a copy of the guide's point."""
        with self.scope(), torch.no_grad():
            return {n: v.detach().clone() for n, v in point(self.guide).items()}

    def buffers(self) -> dict[str, Tensor]:
        """Return a copy of the module's buffers."""
        named = self.model.named_buffers() if isinstance(self.model, nn.Module) else ()
        return {name: buffer.clone() for name, buffer in named}

    def restore(self, buffers: Mapping[str, Tensor]) -> None:
        """Set the module's buffers."""
        for name, buffer in self.model.named_buffers() if isinstance(self.model, nn.Module) else ():
            buffer.copy_(buffers[name])

    def project(self, masks: Masks, *, hold: bool) -> None:
        """Zero pruned weights and moments; with ``hold``, train under the masks from now on."""
        for name, mask in masks.items():
            self.params[name].data.masked_fill_(~mask, 0)
        self.optim.mask_moments(masks)
        self.elbo.set_masks(masks if hold else {})

    def run_epoch(self, epoch: int, batch_size: int) -> float:
        """Go once through the data in random order; return the mean loss, nats an example."""
        order = torch.randperm(len(self.x), generator=random_stream(self.seed, "order", epoch))
        total = 0.0
        with self.scope(), seeded(self.seed, "noise", epoch), flushed_denormals():
            for step, batch in enumerate(order.to(self.x.device).split(batch_size), start=1):
                loss = self.svi.step(self.x[batch], self.y[batch])
                if not math.isfinite(loss):
                    raise TrainingDiverged(epoch, step, loss)
                total += loss * len(batch)
        self.optim.end_epoch()
        return total / len(self.x)


def leaf(value: Any) -> Tensor:  # noqa: ANN401  (Pyro adds an attribute to a tensor)
    """Return the unconstrained parameter behind a value of `pyro.param`."""
    return value.unconstrained()


def _own_weights(model: Model) -> Weights:
    if not isinstance(model, BayesianModule):
        return {}
    return {name: p.detach() for name, p in model.net.named_parameters()}


def _decay(model: Model, optim: PyroOptim) -> dict[str, float]:
    """Precisions of the priors whose gradient the optimiser can add as coupled weight decay."""
    if not isinstance(model, BayesianModule) or not fixed_priors(model):
        return {}
    if optim.pt_optim_constructor not in COUPLED_DECAY:
        return {}
    found = {name: weight_decay(prior) for name, prior in model.priors().items()}
    return {name: decay for name, decay in found.items() if decay is not None}
