"""The loss of MAP training: an ELBO for point guides at the cost of a plain PyTorch step."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import ELBO
from pyro.infer.autoguide import AutoDelta
from torch import Tensor
from torch.nn.functional import cross_entropy

from pyro_bayesprune.models.handler import masked_prior
from pyro_bayesprune.models.likelihoods import categorical
from pyro_bayesprune.models.module import BayesianModule, Model
from pyro_bayesprune.models.priors import elementwise
from pyro_bayesprune.models.sites import in_data_plate, scored_sites
from pyro_bayesprune.models.sparse import Surviving
from pyro_bayesprune.training.prior_gradients import EnergyGradient, energy_gradient

MASKED_AT_ONCE = 1 << 19  # number of entries; few compared with a layer of a large network


class _Terms(NamedTuple):
    loss: Any  # minus the log likelihood
    extra: Any  # minus the densities that autograd must differentiate
    gradients: dict[str, EnergyGradient]  # closed-form gradients of the other priors


class PointELBO(ELBO):
    """Minus the log joint at an `AutoDelta` guide's point, and its gradient.

    Under a point guide the ELBO is the log joint at the point (up to the constant entropy of the
    Delta). A `BayesianModule` whose priors are fixed runs its network once, without a trace. Any
    other model is traced and conditioned on the point. The closed-form gradient of a prior is added
    after the backward pass, and the value of such a prior is not part of the loss.

    Like ``Trace_ELBO``, an instance belongs to one model, guide and fit.

    Args:
        scale: factor of the loss and its gradients, e.g. 1/N.
        temperature: divides the log likelihood.
        prior: False omits the log prior (maximum likelihood).
        decayed: sites whose prior's gradient the optimiser adds (coupled weight decay).
        masks: bool tensors by site. Pruned weights get no gradient, and their priors are omitted.
    """

    def __init__(
        self,
        *,
        scale: float = 1.0,
        temperature: float = 1.0,
        prior: bool = True,
        decayed: Collection[str] = (),
        masks: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.scale, self.temperature, self.prior = scale, temperature, prior
        self.decayed = decayed
        self.survivors: dict[str, Surviving] = {}
        self.unmasked: set[str] = set()
        self.set_masks(masks or {})
        self._fixed: dict[str, EnergyGradient] | None = None
        self._planned = False

    def set_masks(self, masks: Mapping[str, Tensor]) -> None:
        """Use these masks from now on. Masks without pruned weights are dropped."""
        self.masks = {n: m for n, m in masks.items() if not m.all()}

    @contextmanager
    def without_masks(
        self, survivors: Mapping[str, Surviving], fixed: Collection[str]
    ) -> Iterator[None]:
        """Do not mask the gradients of some sites, whose pruned entries do not change anyway.

        Args:
            survivors: matrices of a lifted network that are trained as their surviving entries.
            fixed: sites whose pruned entries the optimiser fixes.
        """
        self.survivors, self.unmasked = dict(survivors), {*survivors, *fixed}
        try:
            yield
        finally:
            self.survivors, self.unmasked = {}, set()

    def loss(self, model: Model, guide: AutoDelta, *args: Any, **kwargs: Any) -> float:
        """Return minus the log likelihood of the batch, scaled to the data set."""
        with torch.no_grad():
            return float(self._loss(model, point(guide), *args).loss)

    def loss_and_grads(
        self,
        model: Model,
        guide: AutoDelta,
        *args: Any,
        **kwargs: Any,
    ) -> float:
        """Return minus the scaled log likelihood; add the objective's gradients to the point's."""
        if guide.prototype_trace is None:
            guide(*args)
        weights = point(guide) | self.survivors
        loss, extra, gradients = self._loss(model, weights, *args)
        masks = {n: m for n, m in self.masks.items() if n not in self.unmasked}
        with _masked_gradients(weights, masks):
            (loss + extra).backward()
        weights |= {name: matrix.vector for name, matrix in self.survivors.items()}
        with torch.no_grad():
            for name in self.decayed:
                _gradient(weights[name])  # without a gradient, the optimiser does not decay
            for name, add in gradients.items():
                add(_gradient(weights[name]), weights[name], self.scale)
                if name in masks:
                    _mask_gradient(masks[name], weights[name])
        return loss.item()

    def _get_trace(self, *args: Any) -> Any:  # noqa: ANN401
        raise NotImplementedError  # abstract in `pyro.infer.ELBO`, but not used here

    def _loss(self, model: Model, weights: dict[str, Tensor], x: Tensor, y: Tensor) -> _Terms:
        if not self._planned:
            self._fixed, self._planned = fixed_priors(model, weights), True
        if not isinstance(model, BayesianModule) or self._fixed is None:
            trace = poutine.trace(poutine.condition(model, data=weights)).get_trace(x, y)
            return self._traced(trace, weights)
        log_likelihood = _log_likelihood(model, model.outputs(weights, x), y)
        factor = self.scale / self.temperature * model.num_data / len(x)
        own = {n: add for n, add in self._fixed.items() if self.prior and n not in self.decayed}
        return _Terms(log_likelihood * -factor, 0.0, own)

    def _traced(self, trace: poutine.Trace, weights: dict[str, Tensor]) -> _Terms:
        loss: Any = 0.0
        extra: Any = 0.0
        gradients = {}
        for site in scored_sites(trace):
            name = site["name"]
            if in_data_plate(site):
                loss = loss - self.scale / self.temperature * _scaled(site, site["fn"]).sum()
            elif self.prior and name not in self.decayed:
                add = _closed_form(site) if name in weights and weights[name].is_leaf else None
                if add is None:
                    extra = extra - self.scale * _scaled(site, self._surviving(site)).sum()
                else:
                    gradients[name] = add
        return _Terms(loss, extra, gradients)

    def _surviving(self, site: dict) -> dist.TorchDistribution:
        mask = self.masks.get(site["name"])
        if mask is None or elementwise(site["fn"]).event_shape:
            return site["fn"]
        return masked_prior(site["name"], site["fn"], mask, "dropped")


@contextmanager
def _masked_gradients(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Iterator[None]:
    """Mask each gradient during the backward pass, while it is in the processor's cache."""
    hooks = [
        weights[name].register_post_accumulate_grad_hook(partial(_mask_gradient, mask))
        for name, mask in masks.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _mask_gradient(mask: Tensor, weight: Tensor) -> None:
    # Multiplication by bytes is as fast as by floats, and ten times as fast as by bools. PyTorch
    # converts the mask to floats; parts of it need less memory.
    rows = max(1, MASKED_AT_ONCE * len(mask) // mask.numel())
    parts = zip(_gradient(weight).split(rows), mask.view(torch.uint8).split(rows), strict=True)
    for grad, part in parts:
        grad.mul_(part)


def _log_likelihood(model: BayesianModule, outputs: Tensor, y: Tensor) -> Tensor:
    if model.likelihood is categorical and outputs.dim() == 2:
        # This is the same value in one operation instead of eight.
        return -cross_entropy(outputs, y.long(), reduction="sum")
    return model.likelihood(outputs).log_prob(y).sum()


def point(guide: AutoDelta) -> dict[str, Tensor]:
    """Return the values of an `AutoDelta` guide by site, with gradients.

    ``pyro.param`` reads them, so that SVI registers them. A call of the guide would in addition
    sample a Delta distribution for each site and compute its density.
    """
    names = [name for name, _ in guide.prototype_trace.iter_stochastic_nodes()]
    sites = getattr(guide, "site_names", {})  # a trainer's guide renames the sites
    return {sites.get(name, name): pyro.param(f"{guide._pyro_name}.{name}") for name in names}


def fixed_priors(model: Model, sites: Iterable[str] = ()) -> dict[str, EnergyGradient] | None:
    """Return the closed-form gradients of a lifted network's priors, or None if one has none.

    There are none either if some of the latent ``sites`` are no parameters: then a prior or the
    likelihood samples them.
    """
    if not isinstance(model, BayesianModule) or not set(sites) <= set(model.named_weights()):
        return None
    traced = poutine.trace(model.priors)
    with torch.random.fork_rng():  # a prior may sample
        priors = traced()
    if any(site["type"] in ("sample", "param") for site in traced.trace.nodes.values()):
        return None
    gradients = {name: energy_gradient(prior) for name, prior in priors.items()}
    known = {name: add for name, add in gradients.items() if add is not None}
    return known if len(known) == len(gradients) else None


def has_equal_elements(prior: dist.TorchDistribution) -> bool:
    """Return whether a prior is the same for each element of its site."""
    base = elementwise(prior)
    return not any(any(getattr(base, name).stride()) for name in base.arg_constraints)


def _gradient(weight: Tensor) -> Tensor:
    """Return the gradient of a leaf; zeros if the likelihood does not depend on it."""
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    return weight.grad


def _closed_form(site: dict) -> EnergyGradient | None:
    plain = site["mask"] is None and not isinstance(site["scale"], Tensor) and site["scale"] == 1
    return energy_gradient(site["fn"]) if plain else None


def _scaled(site: dict, fn: dist.TorchDistribution) -> Tensor:
    return scale_and_mask(fn.log_prob(site["value"]), site["scale"], site["mask"])
