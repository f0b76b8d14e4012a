"""The Bayes factor of a pruned over an unpruned network, with all its parts."""

import math
from dataclasses import dataclass
from typing import Literal

from pyro_bayesprune.inference.log_joint import LogJoint


@dataclass(frozen=True)
class BayesFactor:
    """Pruned over unpruned (the paper's BF_01, usually written BF_10); above one favours pruning.

    Of kind ``joint`` it is a ratio of joint densities at two points (the paper's Bayes factor):
    posterior odds of two points, not a ratio of marginal likelihoods. At an exact MAP it cannot
    exceed one.

    Args:
        log_likelihood_ratio: difference of log likelihoods, nats.
        log_prior_ratio: difference of log priors, nats.
        num_data: number N of training examples.
        kind: what is compared: ``joint``, or marginal likelihoods by ``laplace`` or
            ``savage_dickey`` (see `pyro_bayesprune.evidence`).
        log_occam_ratio: difference of log Occam factors, nats; 0 for ``joint``, which has none.
    """

    log_likelihood_ratio: float
    log_prior_ratio: float
    num_data: int
    kind: str = "joint"
    log_occam_ratio: float = 0.0

    @classmethod
    def joint(cls, pruned: LogJoint, unpruned: LogJoint, num_data: int) -> "BayesFactor":
        """Return the ratio of two joint densities."""
        return cls(
            pruned.log_likelihood - unpruned.log_likelihood,
            pruned.log_prior - unpruned.log_prior,
            num_data,
        )

    @property
    def log(self) -> float:
        """Log Bayes factor over the data set, in nats."""
        return self.log_likelihood_ratio + self.log_prior_ratio + self.log_occam_ratio

    def value(self, per: Literal["dataset", "datum"] = "dataset") -> float:
        """Return the Bayes factor, or with ``per="datum"`` its N-th root (the paper's scale)."""
        log = self.log / self.num_data if per == "datum" else self.log
        return math.exp(log) if log < 709 else math.inf
