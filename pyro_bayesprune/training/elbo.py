"""The loss of MAP training: an ELBO for point guides at the cost of a plain PyTorch step."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.infer.autoguide import AutoDelta
from torch import Tensor
from torch.nn.functional import cross_entropy

from pyro_bayesprune.data.inputs import Inputs
from pyro_bayesprune.models.likelihoods import Likelihood, categorical, check_shape
from pyro_bayesprune.models.module import BayesianModule, Model
from pyro_bayesprune.models.priors import elementwise
from pyro_bayesprune.models.sites import in_data_plate, scored_sites
from pyro_bayesprune.models.sparse import Surviving
from pyro_bayesprune.training.gradients import (
    PriorTerms,
    add_gradients,
    fixed_priors,
    gradient,
    masking_hooks,
    prior_terms,
    scaled_log_prob,
)
from pyro_bayesprune.training.prior_gradients import EnergyGradient


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
            return float(self._loss(model, point(guide), *args)[0])

    def loss_and_grads(
        self,
        model: Model,
        guide: AutoDelta,
        *args: Any,
        **kwargs: Any,
    ) -> Any:  # noqa: ANN401
        """Return minus the scaled log likelihood; add the objective's gradients to the point's.

        On the CPU it is a number. On a device it stays there, since the host would wait for it.
        """
        if guide.prototype_trace is None:
            guide(*args)
        weights = point(guide) | self.survivors
        loss, prior = self._loss(model, weights, *args)
        masks = {n: m for n, m in self.masks.items() if n not in self.unmasked}
        hooks = masking_hooks(weights, masks)
        try:
            (loss + prior.extra).backward()
        finally:
            for hook in hooks:
                hook.remove()
        weights |= {name: matrix.vector for name, matrix in self.survivors.items()}
        with torch.no_grad():
            for name in self.decayed:
                gradient(weights[name])  # without a gradient, the optimiser does not decay
            add_gradients(prior.gradients, weights, masks, self.scale)
        return loss.item() if loss.device.type == "cpu" else loss.detach()

    def _get_trace(self, *args: Any) -> Any:  # noqa: ANN401
        raise NotImplementedError  # abstract in `pyro.infer.ELBO`, but not used here

    def _loss(
        self, model: Model, weights: dict[str, Tensor], x: Inputs, y: Tensor
    ) -> tuple[Any, PriorTerms]:
        """Return minus the log likelihood of a batch, and the terms of the prior."""
        if not self._planned:
            self._fixed, self._planned = fixed_priors(model, weights), True
        if not isinstance(model, BayesianModule) or self._fixed is None:
            trace = poutine.trace(poutine.condition(model, data=weights)).get_trace(x, y)
            return self._traced(trace, weights)
        likelihood = log_likelihood(model.likelihood, model.outputs(weights, x), y)
        factor = self.scale / self.temperature * model.num_data / len(y)
        own = {n: add for n, add in self._fixed.items() if self.prior and n not in self.decayed}
        return likelihood * -factor, PriorTerms(0.0, own)

    def _traced(self, trace: poutine.Trace, weights: dict[str, Tensor]) -> tuple[Any, PriorTerms]:
        loss: Any = 0.0
        sites = list(scored_sites(trace))
        for site in filter(in_data_plate, sites):
            loss = loss - self.scale / self.temperature * scaled_log_prob(site, site["fn"]).sum()
        outside = [site for site in sites if self.prior and not in_data_plate(site)]
        return loss, prior_terms(
            outside, weights, self.masks, scale=self.scale, omitted=self.decayed
        )


def log_likelihood(likelihood: Likelihood, outputs: Tensor, y: Tensor) -> Tensor:
    """Return the log likelihood of a batch, in nats, from the outputs of the network."""
    if likelihood is categorical and outputs.dim() == 2:
        # This is the same value in one operation instead of eight.
        return -cross_entropy(outputs, y.long(), reduction="sum")
    targets = likelihood(outputs)
    check_shape(targets, y)  # otherwise (n,) and (n, 1) would be broadcast to (n, n)
    return targets.log_prob(y).sum()


def point(guide: AutoDelta) -> dict[str, Tensor]:
    """Return the values of an `AutoDelta` guide by site, with gradients.

    ``pyro.param`` reads them, so that SVI registers them. A call of the guide would in addition
    sample a Delta distribution for each site and compute its density.
    """
    names = [name for name, _ in guide.prototype_trace.iter_stochastic_nodes()]
    sites = getattr(guide, "site_names", {})  # a trainer's guide renames the sites
    return {sites.get(name, name): pyro.param(f"{guide._pyro_name}.{name}") for name in names}


def has_equal_elements(prior: dist.TorchDistribution) -> bool:
    """Return whether a prior is the same for each element of its site."""
    base = elementwise(prior)
    return not any(any(getattr(base, name).stride()) for name in base.arg_constraints)
