"""The Bayes factor of a pruned over an unpruned network, with all its parts."""

import math
from dataclasses import dataclass
from typing import Literal

from pyro_bayesprune.inference.log_joint import LogJoint


@dataclass(frozen=True)
class BayesFactor:
    """The Bayes factor of the pruned over the unpruned network; above one favours pruning.

    The paper's BF_01 is usually written BF_10. The paper's kind ``joint`` is a ratio of joint
    densities at two points. These are the posterior odds of two points, not a ratio of marginal
    likelihoods. At an exact MAP they cannot exceed one.

    Args:
        log_likelihood_ratio: difference of log likelihoods, nats.
        log_prior_ratio: difference of log priors, nats.
        num_data: number N of training examples.
        kind: ``joint`` for joint densities, ``laplace`` for marginal likelihoods.
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
        """Return the Bayes factor, or its N-th root (the paper's scale) with ``per="datum"``."""
        log = self.log / self.num_data if per == "datum" else self.log
        return math.exp(log) if log < 709 else math.inf
