"""How good predictions are."""

from collections.abc import Mapping

import torch
from torch import Tensor


def accuracy(probabilities: Tensor, labels: Tensor) -> float:
    """Return the share of examples whose most probable class is the label.

    Args:
        probabilities: class probabilities (n, classes).
        labels: classes (n,).
    """
    return (probabilities.argmax(-1) == labels).double().mean().item()


def sparsity(masks: Mapping[str, Tensor]) -> float:
    """Return the share of the prunable weights that ``masks`` remove."""
    total = sum(mask.numel() for mask in masks.values())
    kept = sum(int(mask.sum()) for mask in masks.values())
    return 1 - kept / total if total else 0.0


def layer_sparsity(masks: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the share of pruned weights of each site."""
    return {name: sparsity({name: mask}) for name, mask in masks.items()}


def check_finite(name: str, values: Tensor) -> None:
    """Raise a ValueError that names ``name`` if ``values`` hold NaN or infinity."""
    if values.is_floating_point() and not torch.isfinite(values).all():
        bad = int((~torch.isfinite(values)).sum())
        raise ValueError(f"{name} must be finite, got {bad} NaN or infinite values")
