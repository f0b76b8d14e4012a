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


CRITERIA: dict[str, Criterion] = {"random": random, "magnitude": magnitude}
