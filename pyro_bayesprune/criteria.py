"""Criteria: functions that score the weights of each site; the lowest scores are pruned first.

A criterion is ``(weights, masks, *, model, data, generator) -> dict[site, scores]``. Weights that
are zero already go first whatever their score.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Criterion = Callable[..., dict[str, Tensor]]


def random(
    weights: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    *,
    generator: torch.Generator,
    **_: Any,
) -> dict[str, Tensor]:
    """Score weights by uniform random numbers (paper, Algorithm 2)."""
    return {
        name: torch.rand(mask.shape, generator=generator).to(weights[name].device)
        for name, mask in masks.items()
    }


def magnitude(
    weights: Mapping[str, Tensor], masks: Mapping[str, Tensor], **_: Any
) -> dict[str, Tensor]:
    """Score weights by their absolute value (paper, Algorithm 3)."""
    return {name: weights[name].abs() for name in masks}


def shuffled_magnitude(
    weights: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    *,
    generator: torch.Generator,
    **_: Any,
) -> dict[str, Tensor]:
    """Score weights by the magnitudes of others of their layer: a control.

    The surviving magnitudes of each layer are shuffled among its surviving weights, so that a layer
    loses as many weights as under `magnitude`, but which ones is random.
    """
    scores = magnitude(weights, masks)
    for name, mask in masks.items():
        kept = scores[name][mask]
        order = torch.randperm(len(kept), generator=generator).to(kept.device)
        scores[name] = scores[name].masked_scatter(mask, kept[order])
    return scores


CRITERIA: dict[str, Criterion] = {
    "random": random,
    "magnitude": magnitude,
    "shuffled_magnitude": shuffled_magnitude,
}
