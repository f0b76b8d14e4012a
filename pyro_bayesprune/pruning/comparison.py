"""Comparison of a candidate with the network before the step, on all data or on a random subset."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from pyro_bayesprune.data.batches import Batches
from pyro_bayesprune.inference.bayes_factor import BayesFactor
from pyro_bayesprune.inference.log_joint import LogJoint, log_densities, log_joint
from pyro_bayesprune.inference.metrics import sparsity
from pyro_bayesprune.models.module import Masks, Model, Weights
from pyro_bayesprune.pruning.gates import threshold_of_gain
from pyro_bayesprune.pruning.record import PruneState, Try
from pyro_bayesprune.pruning.sequential import estimate_sum
from pyro_bayesprune.pruning.settings import Pruning

LogOccamRatio = Callable[[Masks], float]


@dataclass
class Comparison(ABC):
    """Compares candidates with the ``current`` network.

    Args:
        model: the Pyro model.
        current: the network before the step.
        data: all training examples.
        pruning: how to prune.
        temperature: divides the log likelihood.
        log_occam_ratio: log Occam factor under some masks minus the current one, nats; None if it
            does not count.
        order: random numbers for the order in which a comparison on a subset reads the examples.
    """

    model: Model
    current: PruneState
    data: Batches
    pruning: Pruning
    temperature: float
    log_occam_ratio: LogOccamRatio | None
    order: torch.Generator
    before: LogJoint = field(default=LogJoint(math.nan, math.nan), init=False)  # of ``current``

    @abstractmethod
    def __call__(self, candidate: PruneState) -> tuple[LogJoint, Try]:
        """Return the log joint of a candidate (NaN if it is unknown) and its Bayes factor."""

    def log_threshold(self) -> float:
        """Return the threshold of the log Bayes factor, nats."""
        return self.pruning.log_threshold(self.data.num_data)

    def occam(self, candidate: PruneState) -> float:
        """Return the log Occam factor of a candidate minus that of the current network, nats."""
        return self.log_occam_ratio(candidate.masks) if self.log_occam_ratio else 0.0


@dataclass
class FullComparison(Comparison):
    """Computes log joints on all training data."""

    def __post_init__(self) -> None:
        self.before = self._log_joint(self.current)

    def __call__(self, candidate: PruneState) -> tuple[LogJoint, Try]:
        """Return the log joint of a candidate and its Bayes factor."""
        after, occam = self._log_joint(candidate), self.occam(candidate)
        factor = BayesFactor.joint(after, self.before, self.data.num_data)
        factor = replace(factor, kind=self.pruning.kind, log_occam_ratio=occam)
        return after, Try(sparsity(candidate.masks), factor)

    def log_threshold(self) -> float:
        """Return the threshold; that of the gate ``retain`` needs the empty network's log joint."""
        if self.pruning.gate != "retain":
            return super().log_threshold()
        weights, masks = self.current.weights, self.current.masks
        empty = {name: torch.zeros_like(weights[name]) for name in masks}
        no_masks = {name: torch.zeros_like(mask) for name, mask in masks.items()}
        try:
            joint = self._log_joint(PruneState(weights | empty, no_masks))
        except ValueError as error:
            message = "gate='retain' needs the network without prunable weights: use 'propose'"
            raise ValueError(f"{message}; {error}") from None
        return threshold_of_gain(self.before.total - joint.total)

    def _log_joint(self, state: PruneState) -> LogJoint:
        prior = self.pruning.pruned_prior
        # Pruned weights are zero, so masks change the log joint only if they drop the prior.
        masks = state.masks if prior == "dropped" else {}
        return log_joint(
            self.model, state.weights, self.data, masks, prior, temperature=self.temperature
        )


@dataclass
class SequentialComparison(Comparison):
    """Reads random examples until the decision is clear. Log joints remain unknown."""

    def __post_init__(self) -> None:
        if not self.data.has_positions:
            raise ValueError(
                "evaluation='sequential' reads random examples, but this loader can only be read "
                "from its beginning: use evaluation='full', or give a torch Dataset"
            )
        number = self.data.num_data
        self.shuffled = self.data.at(torch.randperm(number, generator=self.order, device="cpu"))
        self.current_densities = _Densities(self, self.current.weights)

    def __call__(self, candidate: PruneState) -> tuple[LogJoint, Try]:
        """Return an unknown log joint, and an estimate of the candidate's Bayes factor."""
        before, after = self.current_densities, _Densities(self, candidate.weights)
        num_data, pruning = self.data.num_data, self.pruning
        log_occam_ratio = self.occam(candidate)
        log_prior_ratio = after.log_prior - before.log_prior
        estimate = estimate_sum(
            lambda number: after.log_likelihoods(number) - before.log_likelihoods(number),
            num_data,
            constant=log_prior_ratio + log_occam_ratio,
            threshold=self.log_threshold(),
            alpha=pruning.alpha,
        )
        ratio = estimate.value - log_prior_ratio - log_occam_ratio
        factor = BayesFactor(ratio, log_prior_ratio, num_data, pruning.kind, log_occam_ratio)
        margin = estimate.high - estimate.value
        return self.before, Try(sparsity(candidate.masks), factor, margin, estimate.share)


class _Densities:
    """Log densities of one network. The log likelihood of each example is computed only once."""

    def __init__(self, comparison: SequentialComparison, weights: Weights) -> None:
        self.comparison, self.weights = comparison, weights
        self.computed, self.log_prior = self._compute(0, 1)

    def log_likelihoods(self, number: int) -> Tensor:
        """Return the log likelihoods of the first examples in random order, (number,)."""
        start = len(self.computed)
        if number > start:
            self.computed = torch.cat([self.computed, self._compute(start, number)[0]])
        return self.computed[:number]

    def _compute(self, start: int, end: int) -> tuple[Tensor, float]:
        comparison, part = self.comparison, self.comparison.shuffled.at(slice(start, end))
        return log_densities(
            comparison.model, self.weights, part, temperature=comparison.temperature
        )


COMPARISONS: dict[str, type[Comparison]] = {
    "full": FullComparison,
    "sequential": SequentialComparison,
}
