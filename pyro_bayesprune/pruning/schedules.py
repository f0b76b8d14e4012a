"""Schedules: the target sparsity at the end of each epoch."""

from collections.abc import Callable

REACHED_AT = 0.6  # share of the epochs at which rising schedules reach their target
ENDS_AT = 0.8  # share of the epochs after which the gate `retain` prunes no more


def constant(epoch: int, epochs: int, target: float) -> float:
    """Return the target at every epoch (the paper's schedule)."""
    return target


def cubic(epoch: int, epochs: int, target: float) -> float:
    """Return the cubic schedule (Zhu & Gupta, 2017), which reaches its target after 60%."""
    progress = min(1.0, epoch / max(1.0, REACHED_AT * epochs))
    return target * (1 - (1 - progress) ** 3)


def one_shot(epoch: int, epochs: int, target: float) -> float:
    """Return 0 in the first 60% of the epochs and then the target."""
    return target if epoch >= REACHED_AT * epochs else 0.0


Schedule = Callable[[int, int, float], float]
