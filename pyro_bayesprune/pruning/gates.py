"""Gates: rules that turn a log Bayes factor into a decision.

The step and the replay of its record decide by the two functions here.
"""

from typing import Literal

from pyro_bayesprune.inference.bayes_factor import BayesFactor
from pyro_bayesprune.pruning.registry import Gate

Decision = Literal["pruned", "refused", "unchanged"]


def is_closed(gate: Gate, recorded: float | None, threshold: float) -> bool:
    """Say whether a step may not prune at all (paper, Algorithm 1, line 2).

    Args:
        gate: the rule; only ``previous`` ever closes.
        recorded: log Bayes factor that the step before recorded, nats; None before the first.
        threshold: of the log Bayes factor, nats.
    """
    return gate == "previous" and recorded is not None and recorded <= threshold


def accepts(gate: Gate, log_bf: float, threshold: float) -> bool:
    """Say whether an open gate accepts a candidate of this log Bayes factor, nats."""
    return gate != "propose" or log_bf > threshold


def prior_decides(bayes_factor: BayesFactor, threshold: float) -> bool:
    """Say whether the prior part alone turns the sign of log BF - threshold."""
    without = bayes_factor.log - bayes_factor.log_prior_ratio
    return (bayes_factor.log > threshold) != (without > threshold)
