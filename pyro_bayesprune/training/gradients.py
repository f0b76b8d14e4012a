"""Gradients in place: those of pruned weights are masked, and that of the log prior is added."""

from collections.abc import Collection, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from pyro_bayesprune._utils.random import forked_rng
from pyro_bayesprune.models.handler import masked_prior
from pyro_bayesprune.models.module import BayesianModule, Model
from pyro_bayesprune.models.priors import elementwise
from pyro_bayesprune.models.sites import Site
from pyro_bayesprune.training.prior_gradients import EnergyGradient, energy_gradient

MASKED_AT_ONCE = 1 << 19  # number of entries; few compared with a layer of a large network


class PriorTerms(NamedTuple):
    """The log prior at a point, in the form in which its gradient is computed.

    Args:
        extra: minus the scaled densities that autograd must differentiate.
        gradients: closed-form gradients of the other priors, by site.
    """

    extra: Any
    gradients: dict[str, EnergyGradient]


def prior_terms(
    sites: Iterable[Site],
    weights: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    *,
    scale: float,
    omitted: Collection[str] = (),
) -> PriorTerms:
    """Return the terms of the log prior.

    Args:
        sites: the sites of a trace outside the plate ``data``.
        weights: the point; a site whose weight is a leaf may have a closed form.
        masks: bool tensors by site. The priors of pruned weights are omitted from ``extra``.
        scale: factor of ``extra``.
        omitted: sites that do not count.
    """
    extra: Any = 0.0
    gradients = {}
    for site in sites:
        name = site["name"]
        if name in omitted:
            continue
        add = _closed_form(site) if name in weights and weights[name].is_leaf else None
        if add is None:
            extra = extra - scale * scaled_log_prob(site, _surviving(site, masks)).sum()
        else:
            gradients[name] = add
    return PriorTerms(extra, gradients)


def fixed_priors(model: Model, sites: Iterable[str] = ()) -> dict[str, EnergyGradient] | None:
    """Return the closed-form gradients of a lifted network's priors, or None if one has none.

    There are none either if some of the latent ``sites`` are no parameters: then a prior or the
    likelihood samples them.
    """
    if not isinstance(model, BayesianModule) or not set(sites) <= set(model.named_weights()):
        return None
    traced = poutine.trace(model.priors)
    with forked_rng(model.device):  # a prior may sample
        priors = traced()
    if any(site["type"] in ("sample", "param") for site in traced.trace.nodes.values()):
        return None
    gradients = {name: energy_gradient(prior) for name, prior in priors.items()}
    known = {name: add for name, add in gradients.items() if add is not None}
    return known if len(known) == len(gradients) else None


def add_gradients(
    gradients: Mapping[str, EnergyGradient],
    weights: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    factor: float,
) -> None:
    """Add closed-form gradients times a factor to those of the weights, except of pruned ones."""
    for name, add in gradients.items():
        add(gradient(weights[name]), weights[name], factor)
        if name in masks:
            mask_gradient(masks[name], weights[name])


def moves_zeros(add: EnergyGradient, weight: Tensor) -> bool:
    """Return whether a prior has a gradient where weights are zero."""
    add(result := torch.zeros_like(weight), torch.zeros_like(weight), 1.0)
    return bool(result.any())


def gradient(weight: Tensor) -> Tensor:
    """Return the gradient of a leaf; zeros if the likelihood does not depend on it."""
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    return weight.grad


def mask_gradient(mask: Tensor, weight: Tensor) -> None:
    """Set the gradient of pruned weights to zero.

    Args:
        mask: bool tensor; or zeros and ones of the weight's dtype, which need more memory and half
            of the time.
        weight: a leaf.
    """
    if mask.dtype == weight.dtype:
        gradient(weight).mul_(mask)
        return
    # Multiplication by bytes is ten times as fast as by bools. PyTorch converts the mask to floats;
    # parts of it need less memory.
    rows = max(1, MASKED_AT_ONCE * len(mask) // mask.numel())
    parts = zip(gradient(weight).split(rows), mask.view(torch.uint8).split(rows), strict=True)
    for grad, part in parts:
        grad.mul_(part)


def masking_hooks(
    weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]
) -> list[RemovableHandle]:
    """Mask each gradient during the backward pass, while it is in the processor's cache."""
    return [
        weights[name].register_post_accumulate_grad_hook(partial(mask_gradient, mask))
        for name, mask in masks.items()
    ]


def scaled_log_prob(site: Site, fn: dist.TorchDistribution) -> Tensor:
    """Return the log density of a site's value under a distribution, with the site's scale."""
    return scale_and_mask(fn.log_prob(site["value"]), site["scale"], site["mask"])


def _closed_form(site: Site) -> EnergyGradient | None:
    plain = site["mask"] is None and not isinstance(site["scale"], Tensor) and site["scale"] == 1
    return energy_gradient(site["fn"], read=False) if plain else None


def _surviving(site: Site, masks: Mapping[str, Tensor]) -> dist.TorchDistribution:
    mask = masks.get(site["name"])
    if mask is None or elementwise(site["fn"]).event_shape:
        return site["fn"]
    return masked_prior(site["name"], site["fn"], mask, "dropped")
