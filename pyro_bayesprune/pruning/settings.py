"""How to prune: the settings of a pruning step."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from pyro_bayesprune._utils.calls import suggests_fields
from pyro_bayesprune._utils.checks import check_choice
from pyro_bayesprune.models.handler import PrunedPrior, check_pruned_prior
from pyro_bayesprune.pruning.criteria import Criterion
from pyro_bayesprune.pruning.registry import (
    CRITERIA,
    SCHEDULES,
    Evaluation,
    Gate,
    Per,
    Scope,
    Update,
    recommended_gate,
    resolve,
)
from pyro_bayesprune.pruning.schedules import ENDS_AT, REACHED_AT, Schedule


@suggests_fields
@dataclass(frozen=True)
class Pruning:
    """How to prune during training.

    Args:
        criterion: ``"magnitude"``, ``"random"``, or a function; see `pyro_bayesprune.criteria`.
        sparsity: target share of prunable weights that are zero, in [0, 1). With ``"auto"`` the
            evidence chooses. In each of the first 60% of the epochs, the step prunes the largest of
            1/2, 1/4, ... 1/64 of the surviving weights, in the criterion's order, whose log Bayes
            factor of kind ``laplace`` is above the threshold. This factor is the joint ratio of all
            training examples plus an estimate of the gain in the Occam factor
            (`evidence.occam_gains`). Masks persist, so the sparsity increases as the network
            adapts. The last epochs fine-tune. ``"auto"`` needs a `BayesianModule` with zero-mean
            Normal priors and the gate ``"propose"``, and ignores the schedule.
        gate: ``"retain"`` accepts a candidate that retains half of the network's gain in log joint
            over the empty network (all prunable weights zero), and otherwise tries half of the
            increase in sparsity. It prunes nothing while there is no gain, and nothing in the last
            20% of the epochs, which are left for recovery (unless weights ``regrow``).
            ``"propose"`` accepts a candidate whose Bayes factor is above ``beta``, and otherwise
            tries half of the increase. ``"previous"`` is the paper's Algorithm 1, which uses the
            Bayes factor of the previous step. ``"always"`` accepts. By default ``"retain"``; with
            sparsity ``"auto"`` or sequential evaluation ``"propose"``.
        beta: threshold of the Bayes factor on the scale ``per`` under the gates ``"propose"`` and
            ``"previous"``; 0 accepts everything.
        per: ``"datum"`` compares BF^(1/N), ``"dataset"`` the exact ratio.
        scope: prunes each ``"layer"`` to the target (as in the paper), all layers together
            (``"global"``), or whole units and filters in each layer (``"unit"``, needs a
            `BayesianModule`): of a layer's n units, the round(n · sparsity) units with the lowest
            summed scores. The units of the output layer are not pruned. A pruned unit retains its
            bias, a constant that `pyro_bayesprune.export.compact` adds to the next layer.
        schedule: ``"cubic"``, ``"constant"`` (as in the paper), ``"one_shot"``, or a function
            ``(epoch, epochs, target) -> sparsity``.
        regrow: removes the masks after each step, so that pruned weights may become nonzero again.
        sites: names or patterns of the sites to prune, ``"!pattern"`` to exclude. By default, of a
            `BayesianModule` the weights of linear, convolution, recurrent, attention and embedding
            operations and of matrix products in its forward pass; of another model its real sites
            of more than one element.
        pruned_prior: prior of a pruned weight; only ``"density"`` may decide.
        evaluation: ``"full"`` computes joint densities on all training data. ``"sequential"``
            estimates each candidate's log Bayes factor on a growing random subset until the
            decision is clear (`sequential.estimate_sum`). Joint densities are then unknown; twins,
            which compare them, therefore need ``"full"``.
        alpha: error rate of the decision on each candidate under sequential evaluation.

        update: what the survivors of an accepted candidate do. With ``"project"`` they stay as they
            are. With ``"condition"`` they move to their posterior mean given that the pruned
            weights are zero, if that has the larger log joint (`inference.conditioning`).
            BatchNorm statistics and the optimiser's moments of the survivors stay as they are.
        judge: the point at which the gate judges a candidate that will be projected: there
            (``"project"``), or where conditioning would move it (``"condition"``), which
            anticipates what further training recovers. With ``update="condition"`` a candidate is
            always judged at the point to which it moves.

    Raises:
        ValueError: if a value is out of its range; the message names it.
    """

    criterion: str | Criterion = "magnitude"
    sparsity: float | Literal["auto"] = 0.9
    gate: Gate = None  # type: ignore[assignment]  # see `recommended_gate`
    beta: float = 0.95
    per: Per = "datum"
    scope: Scope = "global"
    schedule: str | Schedule = "cubic"
    regrow: bool = False
    sites: tuple[str, ...] | None = None
    pruned_prior: PrunedPrior = "density"
    evaluation: Evaluation = "full"
    alpha: float = 0.01
    update: Update = "project"
    judge: Update = "project"

    def __post_init__(self) -> None:
        if self.gate is None:
            gate = recommended_gate(self.sparsity, self.evaluation)
            object.__setattr__(self, "gate", gate)
        if self.sparsity == "auto":
            if self.gate != "propose":
                raise ValueError(f"sparsity='auto' needs gate='propose', got {self.gate!r}")
        elif not (isinstance(self.sparsity, (int, float)) and 0 <= self.sparsity < 1):
            raise ValueError(f"sparsity must be in [0, 1) or 'auto', got {self.sparsity!r}")
        if not (isinstance(self.beta, (int, float)) and 0 <= self.beta < math.inf):
            raise ValueError(f"beta must be a finite number of at least 0, got {self.beta!r}")
        check_choice("gate", self.gate, get_args(Gate))
        check_choice("per", self.per, get_args(Per))
        check_choice("scope", self.scope, get_args(Scope))
        check_choice("update", self.update, get_args(Update))
        check_choice("judge", self.judge, get_args(Update))
        check_choice("evaluation", self.evaluation, get_args(Evaluation))
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha must be in (0, 1), got {self.alpha!r}")
        if self.evaluation == "sequential" and self.gate in ("always", "retain"):
            reason = "does not use the data" if self.gate == "always" else "needs log joints"
            raise ValueError(
                f"evaluation='sequential' reads data until a decision is clear, but "
                f"gate={self.gate!r} {reason} for its decision"
            )
        if not callable(self.criterion):
            check_choice("criterion", self.criterion, tuple(CRITERIA))
        if not callable(self.schedule):
            check_choice("schedule", self.schedule, tuple(SCHEDULES))
        check_pruned_prior(self.pruned_prior)
        if self.pruned_prior != "density" and self.gate != "always":
            raise ValueError(
                "pruned_prior='dropped' compares a density with a mass, and the sign of the result "
                "depends on the units of the weights. It can be reported (with gate='always') but "
                "cannot decide."
            )

    def target(self, epoch: int, epochs: int) -> float:
        """Return the target sparsity at the end of ``epoch`` (counted from 1).

        For ``"auto"`` it is 1, which is never reached, in the epochs that prune, and then 0.
        """
        if self.sparsity == "auto":
            return float(epoch <= max(1.0, REACHED_AT * epochs))
        schedule = self.schedule if callable(self.schedule) else resolve(SCHEDULES, self.schedule)
        target = schedule(epoch, epochs, self.sparsity)
        if not isinstance(target, (int, float)) or math.isnan(target):
            raise ValueError(f"the schedule must return a number, got {target!r}")
        return min(self.sparsity, max(0.0, target))

    def may_prune(self, epoch: int, epochs: int) -> bool:
        """Return whether the step of this epoch may prune: the gate ``retain`` ends after 80%."""
        last = max(math.ceil(REACHED_AT * epochs), math.floor(ENDS_AT * epochs))
        return self.gate != "retain" or self.regrow or epoch <= last

    def log_threshold(self, num_data: int) -> float:
        """Return the threshold of the log Bayes factor over the data set, in nats."""
        log_beta = math.log(self.beta) if self.beta else -math.inf
        return log_beta * num_data if self.per == "datum" else log_beta

    @property
    def conditions(self) -> bool:
        """Whether candidates are judged at their conditioned points."""
        return "condition" in (self.update, self.judge)

    @property
    def kind(self) -> str:
        """Kind of the deciding Bayes factor."""
        return "laplace" if self.sparsity == "auto" else "joint"

    @property
    def score(self) -> Criterion:
        """The criterion as a function."""
        return self.criterion if callable(self.criterion) else resolve(CRITERIA, self.criterion)
