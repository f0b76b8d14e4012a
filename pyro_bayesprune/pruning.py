"""Pruning at the end of an epoch: schedules, gates and the step that ties them together."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor

from pyro_bayesprune.criteria import CRITERIA, Criterion
from pyro_bayesprune.curvature import random_sample
from pyro_bayesprune.data import Dataset, Pair, random_stream, train_part
from pyro_bayesprune.evidence import occam_gains
from pyro_bayesprune.masks import Scope, apply_masks, propose_masks
from pyro_bayesprune.metrics import layer_sparsity, sparsity
from pyro_bayesprune.model import (
    BayesianModule,
    Masks,
    Model,
    PrunedPrior,
    Weights,
    check_pruned_prior,
)
from pyro_bayesprune.posterior import (
    BayesFactor,
    LogJoint,
    Per,
    log_densities,
    log_joint,
)
from pyro_bayesprune.sequential import estimate_sum

Gate = Literal["previous", "propose", "always"]
Evaluation = Literal["full", "sequential"]
Decision = Literal["pruned", "refused", "unchanged"]

REACHED_AT = 0.6  # share of the epochs at which rising schedules reach their target
MAX_HALVINGS = 6


def constant(epoch: int, epochs: int, target: float) -> float:
    """Return the target at every epoch (the paper's schedule)."""
    return target


def cubic(epoch: int, epochs: int, target: float) -> float:
    """Return the cubic schedule (Zhu & Gupta, 2017), at its target from 60% of the epochs on."""
    progress = min(1.0, epoch / max(1.0, REACHED_AT * epochs))
    return target * (1 - (1 - progress) ** 3)


def one_shot(epoch: int, epochs: int, target: float) -> float:
    """Return 0 until 60% of the epochs have passed and the target from then on."""
    return target if epoch >= REACHED_AT * epochs else 0.0


Schedule = Callable[[int, int, float], float]
SCHEDULES: dict[str, Schedule] = {"constant": constant, "cubic": cubic, "one_shot": one_shot}


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


@dataclass(frozen=True)
class Pruning:
    """How to prune while training.

    Args:
        criterion: ``"magnitude"``, ``"random"``, or a function; see `pyro_bayesprune.criteria`.
        sparsity: target share of prunable weights that are zero, in [0, 1). ``"auto"`` lets the
            evidence choose: in each of the first 60% of the epochs the step removes the largest of
            1/2, 1/4, ... 1/64 of the weights that are left, in the criterion's order, whose log
            Bayes factor of kind ``laplace`` is above the threshold. That is the joint ratio of all
            training examples and a lower bound of what the Occam factor gains, by
            `evidence.occam_gains`. Masks persist, so sparsity ratchets up as the network adapts;
            the last epochs fine-tune. Needs a `BayesianModule` with zero-mean Normal priors and the
            gate ``"propose"``; the schedule plays no part.
        gate: ``"propose"`` (compare, then keep or back off), ``"previous"`` (the paper's
            Algorithm 1: by the Bayes factor recorded last) or ``"always"``.
        beta: threshold of the Bayes factor on the scale ``per``; 0 lets everything pass.
        per: ``"datum"`` compares BF^(1/N), ``"dataset"`` the exact ratio.
        scope: prune each ``"layer"`` to the target (the paper's), all together (``"global"``), or
            in each layer whole units and filters (``"unit"``, of a `BayesianModule`): of a layer's
            n units the round(n · sparsity) whose weights have the lowest sum of scores. The output
            layer keeps its units; a pruned unit keeps its bias, a constant that
            `pyro_bayesprune.export.compact` folds into the next layer.
        schedule: ``"cubic"``, ``"constant"`` (the paper's), ``"one_shot"``, or a function
            ``(epoch, epochs, target) -> sparsity``.
        regrow: lift the masks after each step, so that weights may come back.
        sites: names or patterns of the sites to prune; None for the default (matrices
            of a `BayesianModule`, real sites of more than one element of another model).
        pruned_prior: prior of a pruned weight; only ``"density"`` may decide.
        evaluation: ``"full"`` computes joint densities on all training data; ``"sequential"``
            estimates each candidate's log Bayes factor on a growing random subset until the
            decision is clear (`sequential.estimate_sum`). Joint densities are then unknown, so
            that twins, which compare them, need ``"full"``.
        alpha: error rate of a sequential comparison with the threshold, for each candidate.

    Raises:
        ValueError: for a value out of its range; the message names it.
    """

    criterion: str | Criterion = "magnitude"
    sparsity: float | Literal["auto"] = 0.9
    gate: Gate = "propose"
    beta: float = 0.95
    per: Per = "datum"
    scope: Scope = "layer"
    schedule: str | Schedule = "cubic"
    regrow: bool = False
    sites: tuple[str, ...] | None = None
    pruned_prior: PrunedPrior = "density"
    evaluation: Evaluation = "full"
    alpha: float = 0.01

    def __post_init__(self) -> None:
        if self.sparsity == "auto":
            if self.gate != "propose":
                raise ValueError(f"sparsity='auto' needs gate='propose', got {self.gate!r}")
        elif not (isinstance(self.sparsity, (int, float)) and 0 <= self.sparsity < 1):
            raise ValueError(f"sparsity must be in [0, 1) or 'auto', got {self.sparsity!r}")
        if not (isinstance(self.beta, (int, float)) and 0 <= self.beta < math.inf):
            raise ValueError(f"beta must be a finite number of at least 0, got {self.beta!r}")
        _check_choice("gate", self.gate, get_args(Gate))
        _check_choice("per", self.per, get_args(Per))
        _check_choice("scope", self.scope, get_args(Scope))
        _check_choice("evaluation", self.evaluation, get_args(Evaluation))
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha must be in (0, 1), got {self.alpha!r}")
        if self.evaluation == "sequential" and self.gate == "always":
            raise ValueError(
                "evaluation='sequential' reads data until a decision is clear: gate='always' "
                "decides nothing by them"
            )
        if not callable(self.criterion):
            _check_choice("criterion", self.criterion, tuple(CRITERIA))
        if not callable(self.schedule):
            _check_choice("schedule", self.schedule, tuple(SCHEDULES))
        check_pruned_prior(self.pruned_prior)
        if self.pruned_prior != "density" and self.gate != "always":
            raise ValueError(
                "pruned_prior='dropped' compares a density with a mass: its sign depends on the "
                "units of the weights. It may be reported (gate='always'), never decide."
            )

    def target(self, epoch: int, epochs: int) -> float:
        """Return the schedule's sparsity at the end of ``epoch`` (counted from 1).

        Under ``"auto"`` it is out of reach, 1, while there is to be pruning, and then 0.
        """
        if self.sparsity == "auto":
            return float(epoch <= max(1.0, REACHED_AT * epochs))
        schedule = self.schedule if callable(self.schedule) else SCHEDULES[self.schedule]
        target = schedule(epoch, epochs, self.sparsity)
        if not isinstance(target, (int, float)) or math.isnan(target):
            raise ValueError(f"the schedule must return a number, got {target!r}")
        return min(self.sparsity, max(0.0, target))

    def log_threshold(self, num_data: int) -> float:
        """Return the threshold of the log Bayes factor over the data set, in nats."""
        log_beta = math.log(self.beta) if self.beta else -math.inf
        return log_beta * num_data if self.per == "datum" else log_beta

    @property
    def kind(self) -> str:
        """Kind of the Bayes factor that decides."""
        return "laplace" if self.sparsity == "auto" else "joint"

    @property
    def score(self) -> Criterion:
        """The criterion as a function."""
        return self.criterion if callable(self.criterion) else CRITERIA[self.criterion]


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


def prune_step(
    model: Model,
    state: PruneState,
    data: Dataset | Pair,
    pruning: Pruning,
    *,
    epoch: int = 1,
    epochs: int = 1,
    generator: torch.Generator | None = None,
    temperature: float = 1.0,
) -> tuple[PruneState, Record]:
    """Run the end of an epoch: build the pruned network, compare, decide (paper, Algorithm 1).

    Args:
        model: the Pyro model.
        state: weights, masks (of all prunable sites) and the log Bayes factor recorded last.
        data: training data; decisions see nothing else.
        pruning: how to prune.
        epoch: the epoch that has ended, counted from 1.
        epochs: number of epochs of the training (schedules need it).
        generator: random numbers for the criterion.
        temperature: of the likelihood.

    Returns:
        The new state, whose pruned weights are exactly zero, and the record.

    Raises:
        ValueError: for a log Bayes factor that is not a number: nothing is decided by it.
    """
    x, y = train_part(data)
    kept = {n: m | pruning.regrow for n, m in state.masks.items()}
    target, threshold = pruning.target(epoch, epochs), pruning.log_threshold(len(x))
    sparsity_before = sparsity(kept)
    comparison = _sequential if pruning.evaluation == "sequential" else _full
    before, compare = comparison(
        model,
        PruneState(state.weights, kept),
        (x, y),
        pruning,
        temperature=temperature,
        order=random_stream(generator.initial_seed() if generator else 0, "subset", epoch),
    )
    gains: Weights = {}
    if pruning.kind == "laplace" and target > sparsity_before:
        sample = random_sample((x, y), generator)
        gains = occam_gains(
            cast(BayesianModule, model), state.weights, sample, temperature=temperature
        )
    candidates = _candidates(model, state.weights, kept, data, pruning, target, generator)
    nothing = _Found(kept, before, "unchanged")
    found = _search(candidates, state, nothing, gains, compare, pruning, threshold)
    none = BayesFactor(0.0, 0.0, len(x), pruning.kind)
    bayes_factor = found.tries[-1].bayes_factor if found.tries else none
    record = Record(
        epoch=epoch,
        before=before,
        after=found.after,
        bayes_factor=bayes_factor,
        recorded=state.log_bf if pruning.gate == "previous" else None,
        log_threshold=threshold,
        decision=found.decision,
        tries=found.tries,
        prior_decides=prior_decides(bayes_factor, threshold),
        target=target,
        sparsity_before=sparsity_before,
        sparsity=sparsity(found.masks),
        layers=layer_sparsity(found.masks),
    )
    weights = apply_masks(state.weights, found.masks)
    return PruneState(weights, found.masks, bayes_factor.log), record


Compare = Callable[[PruneState, float], tuple[LogJoint, Try]]


class _Found(NamedTuple):
    masks: Masks
    after: LogJoint
    decision: Decision
    tries: tuple[Try, ...] = ()


def _search(
    candidates: Iterator[Masks],
    state: PruneState,
    nothing: _Found,
    gains: Weights,
    compare: Compare,
    pruning: Pruning,
    threshold: float,
) -> _Found:
    """Look at the candidates in order until the gate takes one; ``nothing`` is what it began with.

    Args:
        candidates: masks to try.
        state: before the step.
        nothing: what is found where there is no candidate.
        gains: what the log Occam factor gains by removing each weight, nats; empty for kind joint.
        compare: looks at a candidate.
        pruning: has the gate.
        threshold: of the log Bayes factor, nats.
    """
    tries: tuple[Try, ...] = ()
    for masks in candidates:
        if _closed(pruning, state.log_bf, threshold):
            return nothing._replace(decision="refused")
        occam = sum(
            gains[n][nothing.masks[n] & ~masks[n]].sum().item() for n in gains if n in masks
        )
        after, seen = compare(PruneState(apply_masks(state.weights, masks), masks), occam)
        tries = (*tries, seen)
        if math.isnan(seen.bayes_factor.log):
            raise ValueError(f"the log Bayes factor is not a number: {seen.bayes_factor}")
        if pruning.gate != "propose" or seen.bayes_factor.log > threshold:
            return _Found(masks, after, "pruned", tries)
    return nothing._replace(decision="refused" if tries else "unchanged", tries=tries)


def _full(
    model: Model,
    state: PruneState,
    data: Pair,
    pruning: Pruning,
    *,
    temperature: float,
    order: torch.Generator,
) -> tuple[LogJoint, Compare]:
    """Return the log joint before the step, and a comparison of candidates with it on all data."""

    def joint(state: PruneState) -> LogJoint:
        # Pruned weights are zero: a mask adds something only where they leave the prior.
        masks = state.masks if pruning.pruned_prior == "dropped" else {}
        return log_joint(
            model, state.weights, data, masks, pruning.pruned_prior, temperature=temperature
        )

    def compare(candidate: PruneState, occam: float) -> tuple[LogJoint, Try]:
        after = joint(candidate)
        factor = BayesFactor.joint(after, before, len(data[0]))
        factor = replace(factor, kind=pruning.kind, log_occam_ratio=occam)
        return after, Try(sparsity(candidate.masks), factor)

    before = joint(state)
    return before, compare


def _sequential(
    model: Model,
    state: PruneState,
    data: Pair,
    pruning: Pruning,
    *,
    temperature: float,
    order: torch.Generator,
) -> tuple[LogJoint, Compare]:
    """Return an unknown log joint, and a comparison of candidates on as much data as it needs."""
    (x, y), unknown = data, LogJoint(math.nan, math.nan)
    shuffled = torch.randperm(len(x), generator=order).to(x.device)

    def reader(weights: Weights) -> Callable[[int], tuple[Tensor, float]]:
        read, log_prior = torch.zeros(0, dtype=torch.float64), 0.0

        def first(number: int) -> tuple[Tensor, float]:
            nonlocal read, log_prior
            if number > len(read):
                rows = shuffled[len(read) : number]
                new, log_prior = log_densities(
                    model, weights, (x[rows], y[rows]), temperature=temperature
                )
                read = torch.cat([read, new])
            return read[:number], log_prior

        return first

    before = reader(state.weights)

    def compare(candidate: PruneState, occam: float) -> tuple[LogJoint, Try]:
        after = reader(candidate.weights)
        log_prior_ratio = after(1)[1] - before(1)[1]
        estimate = estimate_sum(
            lambda number: after(number)[0] - before(number)[0],
            len(x),
            constant=log_prior_ratio + occam,
            threshold=pruning.log_threshold(len(x)),
            alpha=pruning.alpha,
        )
        ratio = estimate.value - log_prior_ratio - occam
        factor = BayesFactor(ratio, log_prior_ratio, len(x), pruning.kind, occam)
        margin = estimate.high - estimate.value
        return unknown, Try(sparsity(candidate.masks), factor, margin, estimate.share)

    return unknown, compare


def _closed(pruning: Pruning, recorded: float | None, threshold: float) -> bool:
    """Algorithm 1's line 2: the Bayes factor recorded last forbids to prune."""
    return pruning.gate == "previous" and recorded is not None and recorded <= threshold


def prior_decides(bayes_factor: BayesFactor, threshold: float) -> bool:
    """Say whether the prior part alone turns the sign of log BF - threshold."""
    without = bayes_factor.log - bayes_factor.log_prior_ratio
    return (bayes_factor.log > threshold) != (without > threshold)


def _candidates(
    model: Model,
    weights: Weights,
    masks: Masks,
    data: Dataset | Pair,
    pruning: Pruning,
    target: float,
    generator: torch.Generator | None,
) -> Iterator[Masks]:
    """Yield masks at the target, then with the increase in sparsity halved again and again."""
    start = sparsity(masks)
    if not masks or target <= start:
        return
    scores = pruning.score(weights, masks, model=model, data=data, generator=generator)
    for halvings in range(int(pruning.sparsity == "auto"), MAX_HALVINGS + 1):
        level = start + (target - start) / 2**halvings if halvings else target
        proposed = propose_masks(scores, weights, masks, level, pruning.scope)
        if all(torch.equal(proposed[name], masks[name]) for name in masks):
            return
        yield proposed
