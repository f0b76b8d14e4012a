"""A user's own parameters and optimisers, with the prior and the masks attached by hooks."""

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import transform_to
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from pyro_bayesprune._utils.process import one_at_a_time
from pyro_bayesprune._utils.random import forked_rng, seeded
from pyro_bayesprune.models.likelihoods import Likelihood, gaussian, has_known_curvature
from pyro_bayesprune.models.module import BayesianModule, Masks, Weights
from pyro_bayesprune.models.priors import EVIDENCE
from pyro_bayesprune.models.sites import Site, median_of, scored_sites
from pyro_bayesprune.training.gradients import (
    PriorTerms,
    add_gradients,
    fixed_priors,
    gradient,
    mask_gradient,
    masking_hooks,
    moves_zeros,
    prior_terms,
)
from pyro_bayesprune.training.optimizer import mask_moments
from pyro_bayesprune.training.parameters import Parameters


class Attached(Parameters):
    """The parameters of a lifted network, which optimisers of the user's change.

    The objective of the user's loop is the mean negative log likelihood of an example. In its units
    the log prior counts with the factor temperature / N.

    Args:
        model: the lifted network. Its module's parameters are changed in place.
        temperature: divides the log likelihood, which the loop's loss does not contain.
        seed: seed of the initial values of the sites that the prior or the likelihood samples.
    """

    model: BayesianModule

    def __init__(self, model: BayesianModule, *, temperature: float, seed: int) -> None:
        self.model, self.temperature, self.seed = model, temperature, seed
        sites = _hyperparameters(model, seed)
        self.fixed = fixed_priors(model, sites)
        self.transforms = {name: transform_to(site["fn"].support) for name, site in sites.items()}
        self.scales = {
            name: nn.Parameter(
                self.transforms[name].inv(site["value"]),
                requires_grad=not site["infer"].get(EVIDENCE),
            )
            for name, site in sites.items()
        }
        self.frozen_sites = [n for n, scale in self.scales.items() if not scale.requires_grad]
        self.net_parameters = model.named_weights()
        self.params: dict[str, Tensor] = {**self.net_parameters, **self.scales}
        fixed = (self.fixed or {}).items()
        self.at_rest = {name for name, add in fixed if not moves_zeros(add, self.params[name])}
        self.optimizers: list[Optimizer] = []
        self.hooks: list[RemovableHandle] = []
        self.mask_hooks: list[RemovableHandle] = []
        self.set_masks({})

    @property
    def like(self) -> Tensor:
        """A tensor of the network's dtype, on its device."""
        return next(iter(self.net_parameters.values())).detach().new_empty(0)

    def weights(self) -> Weights:
        """Return a copy of the value of each site."""
        with torch.no_grad():
            return {name: value.detach().clone() for name, value in self._point().items()}

    def _point(self) -> Weights:
        scales = {name: self.transforms[name](scale) for name, scale in self.scales.items()}
        return {**self.net_parameters, **scales}

    def likelihood(self, outputs: Tensor) -> Likelihood:
        """Return the likelihood with the noise as it is now, with gradients, for these outputs.

        Raises:
            ValueError: if the likelihood samples anything but the noise of a `gaussian`.
        """
        likelihood = self.model.likelihood
        if has_known_curvature(likelihood):
            return poutine.condition(likelihood, data=self._point()) if self.scales else likelihood
        with one_at_a_time(), torch.no_grad(), forked_rng(outputs.device):
            sampled = list(scored_sites(poutine.trace(likelihood).get_trace(outputs)))
        refuse_sites({site["name"] for site in sampled})
        return likelihood

    def set(self, name: str, value: Tensor) -> None:
        """Set the value of a site, in place."""
        if name in self.transforms:
            value = self.transforms[name].inv(value)
        self.params[name].data.copy_(value)

    def mask_moments(self, masks: Masks) -> None:
        """Zero the moments of pruned weights in all optimisers."""
        for optimizer in self.optimizers:
            mask_moments(optimizer, self.params, masks)

    def set_masks(self, masks: Masks) -> None:
        """Mask gradients, and keep pruned weights at zero, from now on."""
        for hook in self.mask_hooks:
            hook.remove()
        self.masks = {name: mask for name, mask in masks.items() if not mask.all()}
        params = self.params.items()
        self.factors = {
            n: torch.empty_like(p).copy_(masks[n]) for n, p in params if n in self.masks
        }
        self.mask_hooks = masking_hooks(self.params, self.factors)

    def attach(self, optimizer: Optimizer) -> None:
        """Add the prior before each step of an optimiser, and zero pruned weights after it."""
        self.optimizers.append(optimizer)
        self.hooks += [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    def of(self, optimizer: Optimizer) -> dict[str, Tensor]:
        """Return those parameters that an optimiser changes."""
        changed = {id(p) for group in optimizer.param_groups for p in group["params"]}
        return {name: param for name, param in self.params.items() if id(param) in changed}

    def detach(self) -> None:
        """Remove all hooks."""
        for hook in [*self.hooks, *self.mask_hooks]:
            hook.remove()
        self.optimizers, self.hooks, self.mask_hooks = [], [], []

    def _before_step(
        self, optimizer: Optimizer, args: tuple, kwargs: dict[str, Any]
    ) -> tuple[tuple, dict[str, Any]] | None:
        """Add the prior's gradient now, or, if the step calls a closure, after the closure."""
        own = self.of(optimizer)  # groups of parameters may be added at any time
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._add_prior(own, optimizer)
            return None

        def with_prior(closure: Callable[[], Any]) -> Any:  # noqa: ANN401
            with torch.enable_grad():
                loss = closure()
            self._add_prior(own, optimizer)
            return loss

        return args[:1], kwargs | {"closure": partial(with_prior, closure)}

    def check_trained(self) -> None:
        """Raise a ValueError if a parameter was frozen or released since the beginning."""
        changed = set(self.model.named_weights()) ^ set(self.net_parameters)
        if changed:
            raise ValueError(
                f"requires_grad of {', '.join(sorted(changed))} has changed since the Pruner was "
                f"made, so that the model is another one: make a new Pruner"
            )

    @torch.no_grad()
    def _add_prior(self, own: dict[str, Tensor], optimizer: Optimizer) -> None:
        """Add the gradient of minus the log prior, in the units of the loss.

        Under a `GradScaler`, fused optimisers divide the gradients by its scale in their step.
        """
        scaled = getattr(optimizer, "grad_scale", None)
        factor = self.temperature / self.model.num_data * (1.0 if scaled is None else float(scaled))
        prior = self._prior_terms(factor)
        if isinstance(prior.extra, Tensor) and prior.extra.requires_grad:
            self._add_extra(own, prior.extra)
        trained = {name for name, param in own.items() if param.requires_grad}
        gradients = {name: add for name, add in prior.gradients.items() if name in trained}
        masks = {name: mask for name, mask in self.factors.items() if name not in self.at_rest}
        add_gradients(gradients, own, masks, factor)

    def _prior_terms(self, factor: float) -> PriorTerms:
        if self.fixed is not None:
            return PriorTerms(0.0, self.fixed)
        with one_at_a_time(), validation_on(self.model.device), torch.enable_grad():
            point = self._point()
            at_point = poutine.condition(_latent, data=point)
            sites = list(scored_sites(poutine.trace(at_point).get_trace(self.model)))
            return prior_terms(sites, point, self.masks, scale=factor)

    def _add_extra(self, own: dict[str, Tensor], extra: Tensor) -> None:
        """Add the gradient of densities without a closed form.

        ``extra.backward()`` would run the hooks of DistributedDataParallel a second time.
        """
        trained = {name: param for name, param in own.items() if param.requires_grad}
        grads = torch.autograd.grad(extra, [*trained.values()], allow_unused=True)
        for (name, param), grad in zip(trained.items(), grads, strict=True):
            if grad is not None:
                gradient(param).add_(grad)
                if name in self.factors:
                    mask_gradient(self.factors[name], param)

    @torch.no_grad()
    def _after_step(self, optimizer: Optimizer, *_: object) -> None:
        """Zero pruned weights, which an optimiser may change in spite of masked gradients."""
        self.zero_pruned(self.of(optimizer))

    @torch.no_grad()
    def zero_pruned(self, own: Mapping[str, Tensor]) -> None:
        """Set the pruned weights of some parameters to zero."""
        for name, factor in self.factors.items():
            if name in own:
                own[name].mul_(factor)


def validation_on(device: torch.device) -> AbstractContextManager[Any]:
    """Validate the arguments of distributions on the CPU only: the host would wait for a device."""
    return nullcontext() if device.type == "cpu" else pyro.validation_enabled(False)


def _hyperparameters(model: BayesianModule, seed: int) -> dict[str, Site]:
    """Return the sites that a prior samples itself, and a learnt noise, with initial values."""
    with one_at_a_time(), seeded(seed, "initial", device=model.device), torch.no_grad():
        trace = poutine.trace(_latent).get_trace(model, weights=False)
        sites = {site["name"]: site for site in scored_sites(trace)}
        for site in sites.values():
            site["value"] = median_of(site, model.device)
    return sites


def _latent(model: BayesianModule, weights: bool = True) -> None:
    """Sample the sites outside the plate ``data``: of the priors, the weights, a learnt noise."""
    if weights:
        model.sample_weights()
    else:
        model.priors()
    if isinstance(model.likelihood, gaussian):
        model.likelihood(torch.zeros(1, device=model.device))


def refuse_sites(names: Collection[str]) -> None:
    """Raise a ValueError if a likelihood samples other sites than a learnt noise."""
    if names:
        raise ValueError(
            f"the likelihood samples {', '.join(sorted(names))}, but Pruner can learn only the "
            f"noise of bp.gaussian(prior): use bp.fit, or a likelihood with fixed values"
        )
