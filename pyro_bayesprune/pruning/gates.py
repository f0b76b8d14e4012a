"""Gates: rules that turn a log Bayes factor into a decision.

The pruning step and the replay of its record use the same two rules, `is_closed` and `accepts`.
"""

from typing import Literal

from pyro_bayesprune.inference.bayes_factor import BayesFactor
from pyro_bayesprune.pruning.registry import Gate

Decision = Literal["pruned", "refused", "unchanged"]


def is_closed(gate: Gate, recorded: float | None, threshold: float) -> bool:
    """Return whether the step may not prune at all (paper, Algorithm 1, line 2).

    Args:
        gate: the rule; only ``previous`` can be closed.
        recorded: log Bayes factor of the previous step, nats; None before the first step.
        threshold: threshold of the log Bayes factor, nats.
    """
    return gate == "previous" and recorded is not None and recorded <= threshold


def accepts(gate: Gate, log_bf: float, threshold: float) -> bool:
    """Return whether an open gate accepts a candidate with this log Bayes factor (nats)."""
    return gate != "propose" or log_bf > threshold


def prior_decides(bayes_factor: BayesFactor, threshold: float) -> bool:
    """Return whether log BF - threshold would have the other sign without the prior's part."""
    without = bayes_factor.log - bayes_factor.log_prior_ratio
    return (bayes_factor.log > threshold) != (without > threshold)
