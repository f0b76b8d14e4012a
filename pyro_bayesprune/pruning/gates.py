"""Gates: rules that turn a log Bayes factor into a decision.

The pruning step and the replay of its record use the same two rules, `is_closed` and `accepts`.
"""

from typing import Literal

from pyro_bayesprune.inference.bayes_factor import BayesFactor
from pyro_bayesprune.pruning.registry import Gate

Decision = Literal["pruned", "refused", "unchanged"]
RETAINED = 0.5  # share of a network's gain that a candidate must retain before further training


def threshold_of_gain(gain: float) -> float:
    """Return the threshold of the gate ``retain`` for the log Bayes factor, nats.

    Args:
        gain: log joint of the network minus that of the empty network, in which all prunable
            weights are zero, nats. Up to half of it may be lost, since training regains much of
            the loss. A network that has not gained anything yet has a threshold of at least zero.
    """
    return -(1 - RETAINED) * gain


def is_closed(gate: Gate, recorded: float | None, threshold: float) -> bool:
    """Return whether the step may not prune at all (paper, Algorithm 1, line 2).

    The gate ``retain`` is closed while the empty network has at least the same log joint.

    Args:
        gate: the rule; only ``previous`` and ``retain`` can be closed.
        recorded: log Bayes factor of the previous step, nats; None before the first step.
        threshold: threshold of the log Bayes factor, nats.
    """
    if gate == "retain":
        return threshold >= 0
    return gate == "previous" and recorded is not None and recorded <= threshold


def accepts(gate: Gate, log_bf: float, threshold: float) -> bool:
    """Return whether an open gate accepts a candidate with this log Bayes factor (nats)."""
    return gate not in ("propose", "retain") or log_bf > threshold


def prior_decides(bayes_factor: BayesFactor, threshold: float) -> bool:
    """Return whether log BF - threshold would have the other sign without the prior's part."""
    without = bayes_factor.log - bayes_factor.log_prior_ratio
    return (bayes_factor.log > threshold) != (without > threshold)
