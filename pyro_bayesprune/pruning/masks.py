"""Masks: which weights of each site are pruned."""

import math
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from pyro_bayesprune.models.module import Masks, Weights
from pyro_bayesprune.pruning.registry import Scope


def keep_highest(scores: Tensor, num_pruned: int) -> Tensor:
    """Return a bool tensor that is False at the ``num_pruned`` lowest scores.

    Among equal scores the first positions are pruned first, so that the result is reproducible.
    """
    flat = scores.flatten()
    if not num_pruned:
        return torch.ones_like(scores, dtype=torch.bool)
    if flat.device.type == "cpu":
        threshold = flat.kthvalue(num_pruned).values
    else:  # CUDA has no deterministic kthvalue
        threshold = flat.sort().values[num_pruned - 1]
    below, tied = flat < threshold, flat == threshold
    first_tied = tied & (tied.cumsum(0) <= num_pruned - below.sum())
    return ~(below | first_tied).view(scores.shape)


def propose_masks(
    scores: Weights, weights: Weights, masks: Masks, level: float, scope: Scope
) -> Masks:
    """Return masks that prune round(n · level) weights of each site, or of all sites together.

    With scope ``"unit"`` they prune all weights of round(n · level) of each site's n units (its
    first dimension). Weights that ``masks`` prune remain pruned. Weights that are zero are pruned
    next, whatever their score.
    """
    _check_scores(scores, masks)
    if scope == "unit":
        units = propose_masks(*_by_unit(scores, weights, masks), level, "layer")
        return {n: m & units[n].view(-1, *[1] * (m.dim() - 1)) for n, m in masks.items()}
    ranked = {name: _ranked(scores[name], weights[name], masks[name]) for name in masks}
    groups = [list(ranked)] if scope == "global" else [[name] for name in ranked]
    proposed: Masks = {}
    for group in filter(None, groups):
        joined = torch.cat([ranked[name] for name in group])
        keep = keep_highest(joined, round(len(joined) * level))
        for name, part in zip(group, keep.split([len(ranked[n]) for n in group]), strict=True):
            proposed[name] = part.view(masks[name].shape) & masks[name]
    return proposed


def _by_unit(scores: Weights, weights: Weights, masks: Masks) -> tuple[Weights, Weights, Masks]:
    """Return for each unit its summed score, its largest weight and whether it survives, (n,)."""
    return (
        {n: scores[n].flatten(1).sum(1) for n in masks},
        {n: weights[n].flatten(1).abs().amax(1) for n in masks},
        {n: m.flatten(1).any(1) for n, m in masks.items()},
    )


def _check_scores(scores: object, masks: Masks) -> None:
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


def _ranked(score: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
    first = torch.finfo(score.dtype).min
    score = score.clamp(min=first).masked_fill(weight == 0, first)
    return score.masked_fill(~mask, -math.inf).flatten()


def apply_masks(weights: Mapping[str, Tensor], masks: Masks) -> Weights:
    """Return the weights with pruned weights set to zero."""
    return {n: w.masked_fill(~masks[n], 0) if n in masks else w for n, w in weights.items()}


def warn_of_empty_sites(before: Masks, after: Masks, when: str) -> None:
    """Warn of a site without weights. It is allowed, because the paper has such collapses."""
    empty = [name for name, mask in after.items() if not mask.any() and before[name].any()]
    if empty:
        message = f"no weight of {', '.join(empty)} is left {when}"
        warnings.warn(message, RuntimeWarning, stacklevel=3)


def masks_of_sites(masks: Masks, fresh: Masks) -> Masks:
    """Return the masks of an earlier training for the sites of ``fresh``; else those of ``fresh``.

    Raises:
        ValueError: if the earlier training pruned weights of another site.
    """
    pruned = sorted(n for n, mask in masks.items() if n not in fresh and not mask.all())
    if pruned:
        raise ValueError(
            f"the state has pruned weights of {', '.join(pruned)}, but these settings prune "
            f"{', '.join(fresh)} only: choose the sites and the scope of the earlier training"
        )
    same = set(masks) == set(fresh)
    return masks if same else {name: masks.get(name, mask) for name, mask in fresh.items()}
