"""The state that a pruning step takes and returns, and its record."""

import math
from dataclasses import dataclass

from pyro_bayesprune.inference.bayes_factor import BayesFactor
from pyro_bayesprune.inference.log_joint import LogJoint
from pyro_bayesprune.models.module import Masks, Weights
from pyro_bayesprune.pruning.gates import Decision


@dataclass(frozen=True)
class Try:
    """One candidate that a step looked at.

    Args:
        sparsity: share of prunable weights that it has at zero.
        bayes_factor: of the candidate over the network before the step.
        margin: half width of the log Bayes factor's confidence sequence, nats; 0 where it is exact.
        data_read: share of the training data that were read for it.
    """

    sparsity: float
    bayes_factor: BayesFactor
    margin: float = 0.0
    data_read: float = 1.0

    @property
    def low(self) -> float:
        """Lower end of the interval for the log Bayes factor, nats."""
        return self.bayes_factor.log - self.margin

    @property
    def high(self) -> float:
        """Upper end of the interval for the log Bayes factor, nats."""
        return self.bayes_factor.log + self.margin


@dataclass(frozen=True)
class Record:
    """What a pruning step saw and did; enough to replay its decision.

    Args:
        epoch: counted from 1.
        before: log joint of the network before the step; NaN under sequential evaluation.
        after: log joint of the network after it (the same where nothing was pruned).
        bayes_factor: of the candidate that was looked at last; one where there was none.
        recorded: log Bayes factor that the gate ``previous`` went by, None for the other gates and
            before the first.
        log_threshold: threshold over the data set, nats.
        decision: ``pruned``, ``refused`` or ``unchanged`` (nothing left to prune).
        tries: every candidate, in order.
        prior_decides: the prior part alone turns the sign of (log BF - threshold).
        target: the schedule's sparsity at this epoch.
        sparsity_before: share of prunable weights that were zero before the step.
        sparsity: the same after it.
        layers: sparsity of each site after it.
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

    @property
    def data_read(self) -> float:
        """Share of the training data that the step read."""
        full = [] if math.isnan(self.before.total) else [1.0]
        return max([t.data_read for t in self.tries] + full, default=0.0)

    @property
    def interval(self) -> tuple[float, float]:
        """Interval for the log Bayes factor, nats; both ends equal it where it is exact."""
        return (self.tries[-1].low, self.tries[-1].high) if self.tries else (0.0, 0.0)


@dataclass(frozen=True)
class PruneState:
    """What a step takes and returns: weights, masks, and the log Bayes factor recorded last."""

    weights: Weights
    masks: Masks
    log_bf: float | None = None
