"""The state that a pruning step takes and returns, and its record."""

import math
from dataclasses import dataclass

from pyro_bayesprune.inference.bayes_factor import BayesFactor
from pyro_bayesprune.inference.log_joint import LogJoint
from pyro_bayesprune.models.module import Masks, Weights
from pyro_bayesprune.pruning.gates import Decision


@dataclass(frozen=True)
class Try:
    """One candidate of a step.

    Args:
        sparsity: share of prunable weights that are zero.
        bayes_factor: of the candidate over the network before the step.
        margin: half width of the interval for the log Bayes factor, nats; 0 if it is exact.
        data_read: share of the training data that was read for it.
    """

    sparsity: float
    bayes_factor: BayesFactor
    margin: float = 0.0
    data_read: float = 1.0

    @property
    def interval(self) -> tuple[float, float]:
        """Interval for the log Bayes factor (a confidence sequence), nats."""
        return self.bayes_factor.log - self.margin, self.bayes_factor.log + self.margin


@dataclass(frozen=True)
class Record:
    """What a pruning step computed and decided; enough to replay its decision.

    Args:
        epoch: counted from 1.
        before: log joint of the network before the step; NaN under sequential evaluation.
        after: log joint of the network after the step; equal to ``before`` if nothing was pruned.
        bayes_factor: of the last candidate; one if there was no candidate.
        recorded: log Bayes factor of the previous step, which decides under the gate ``previous``;
            None for the other gates and before the first step.
        log_threshold: threshold over the data set, nats.
        decision: ``pruned``, ``refused`` or ``unchanged`` (nothing to prune).
        tries: every candidate, in order.
        prior_decides: the sign of (log BF - threshold) would change without the prior's part.
        target: the schedule's sparsity at this epoch.
        sparsity_before: share of prunable weights that were zero before the step.
        sparsity: the same share after the step.
        layers: sparsity of each site after the step.
    """

    epoch: int
    before: LogJoint
    after: LogJoint
    bayes_factor: BayesFactor
    recorded: float | None
    log_threshold: float
    decision: Decision
    tries: tuple[Try, ...]
    prior_decides: bool
    target: float
    sparsity_before: float
    sparsity: float
    layers: dict[str, float]
    projected: tuple[str, ...] = ()

    @property
    def data_read(self) -> float:
        """Share of the training data that the step read."""
        full = [] if math.isnan(self.before.total) else [1.0]
        return max([t.data_read for t in self.tries] + full, default=0.0)

    @property
    def interval(self) -> tuple[float, float]:
        """Interval for the log Bayes factor, nats; both ends are equal if it is exact."""
        return self.tries[-1].interval if self.tries else (0.0, 0.0)


@dataclass(frozen=True)
class PruneState:
    """State before and after a step: weights, masks, and the last recorded log Bayes factor."""

    weights: Weights
    masks: Masks
    log_bf: float | None = None
