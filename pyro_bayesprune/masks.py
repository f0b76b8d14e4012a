"""Masks: which weights a network may lose, and which of them go first."""

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import Tensor, nn

from pyro_bayesprune.model import BayesianModule, Masks, Model, Weights, network
from pyro_bayesprune.posterior import ModelSites

Scope = Literal["layer", "global", "unit"]


def keep_highest(scores: Tensor, num_pruned: int) -> Tensor:
    """Return a bool tensor that is False at the ``num_pruned`` lowest scores.

    Ties are broken by position (the first go first), so that equal scores give equal masks.
    """
    flat = scores.flatten()
    if not num_pruned:
        return torch.ones_like(scores, dtype=torch.bool)
    threshold = flat.kthvalue(num_pruned).values
    below, tied = flat < threshold, flat == threshold
    first_tied = tied & (tied.cumsum(0) <= num_pruned - below.sum())
    return ~(below | first_tied).view(scores.shape)


def propose_masks(
    scores: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    level: float,
    scope: Scope,
) -> Masks:
    """Return masks that zero round(n · level) weights: of each site, or of all together.

    With scope ``"unit"``, all weights of round(n · level) of each site's n units (its first
    dimension). What ``masks`` prune already stays pruned, and weights that are zero go next,
    whatever their score.
    """
    _check_scores(scores, masks)
    if scope == "unit":
        units = propose_masks(*_by_unit(scores, weights, masks), level, "layer")
        return {n: m & units[n].view(-1, *[1] * (m.dim() - 1)) for n, m in masks.items()}
    ranked = {name: _ranked(name, scores, weights, masks) for name in masks}
    groups = [list(ranked)] if scope == "global" else [[name] for name in ranked]
    proposed: Masks = {}
    for group in filter(None, groups):
        joined = torch.cat([ranked[name] for name in group])
        keep = keep_highest(joined, round(len(joined) * level))
        for name, part in zip(group, keep.split([len(ranked[n]) for n in group]), strict=True):
            proposed[name] = part.view(masks[name].shape) & masks[name]
    return proposed


def _by_unit(
    scores: Mapping[str, Tensor], weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]
) -> tuple[Weights, Weights, Masks]:
    """Return each unit's summed score, largest weight and whether any is kept, (n,) each."""
    return (
        {n: scores[n].flatten(1).sum(1) for n in masks},
        {n: weights[n].flatten(1).abs().amax(1) for n in masks},
        {n: m.flatten(1).any(1) for n, m in masks.items()},
    )


def _check_scores(scores: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
    if not isinstance(scores, Mapping):
        raise ValueError(f"the criterion must return scores by site, got {type(scores).__name__}")
    missing = sorted(set(masks) - set(scores))
    if missing:
        raise ValueError(f"the criterion gave no scores for {missing}, only for {sorted(scores)}")
    for name, mask in masks.items():
        score = scores[name]
        if score.shape != mask.shape or not score.is_floating_point() or score.isnan().any():
            raise ValueError(
                f"the criterion's scores of {name!r} must be numbers of shape {tuple(mask.shape)}, "
                f"got {score.dtype} of shape {tuple(score.shape)} with {int(score.isnan().sum())} "
                f"NaN"
            )


def _ranked(
    name: str,
    scores: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
) -> Tensor:
    score, mask = scores[name], masks[name]
    first = torch.finfo(score.dtype).min
    score = score.clamp(min=first).masked_fill(weights[name] == 0, first)
    return score.masked_fill(~mask, -math.inf).flatten()


def apply_masks(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Weights:
    """Return the weights with the pruned ones set to zero."""
    return {n: w.masked_fill(~masks[n], 0) if n in masks else w for n, w in weights.items()}


def prunable_sites(
    model: Model,
    sites: ModelSites,
    wanted: tuple[str, ...] | None,
    scope: Scope = "layer",
) -> list[str]:
    """Return the names of the sites to prune.

    Raises:
        ValueError: for a pattern that matches nothing, a site whose support or density at zero
            excludes a pruned weight, or, with scope ``"unit"``, one that has no units to prune; the
            message names it.
    """
    if wanted is None and scope == "unit":
        chosen = sites_with_units(model)
    elif wanted is None:
        chosen = [name for name, site in sites.latent.items() if _prunable(model, site)]
    else:
        wanted = (wanted,) if isinstance(wanted, str) else tuple(wanted)
        for pattern in wanted:
            if not any(fnmatchcase(name, pattern) for name in sites.latent):
                raise ValueError(f"no site matches {pattern!r}; there are {sorted(sites.latent)}")
        chosen = [n for n in sites.latent if any(fnmatchcase(n, p) for p in wanted)]
    for name in chosen:
        _check_zero(name, sites.latent[name])
        if scope == "unit" and name not in sites_with_units(model):
            raise ValueError(
                f"scope='unit' prunes the units of {sites_with_units(model)}, not {name!r}: that "
                f"is the output layer or no weight of a Linear or Conv layer"
            )
    return chosen


def sites_with_units(model: Model) -> list[str]:
    """Return the weights of a lifted network's Linear and Conv layers, the last of them left out.

    The last, in the order of the module's parameters, is the output layer: its units are the
    network's outputs. Of the others, the first dimension counts units.

    Raises:
        ValueError: for a model that is no `BayesianModule`.
    """
    if not isinstance(model, BayesianModule):
        raise ValueError("scope='unit' needs a BayesianModule: another model's sites have no units")
    layers = dict(model.net.named_modules())
    weights = [n for n, p in model.net.named_parameters() if p.dim() >= 2]
    return [n for n in weights[:-1] if _has_units(layers[n.rpartition(".")[0]], n)]


def _has_units(layer: nn.Module, name: str) -> bool:
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return isinstance(layer, kinds) and name.rpartition(".")[2] == "weight"


def _is_real(site: dict) -> bool:
    constraint = site["fn"].support
    while isinstance(constraint, torch.distributions.constraints.independent):
        constraint = constraint.base_constraint
    return constraint is torch.distributions.constraints.real


def _prunable(model: Model, site: dict) -> bool:
    module = network(model)
    if isinstance(module, BayesianModule):
        names = dict(module.net.named_parameters())
        return site["name"] in names and names[site["name"]].dim() >= 2
    return _is_real(site) and site["value"].numel() > 1


def _check_zero(name: str, site: dict) -> None:
    zero = torch.zeros_like(site["value"])
    if not _is_real(site) or not torch.isfinite(site["fn"].log_prob(zero)).all():
        raise ValueError(
            f"the site {name!r} cannot be pruned: its prior {type(site['fn']).__name__} of support "
            f"{site['fn'].support} has no finite density at zero on the real line"
        )
