"""The pruning step at the end of an epoch: candidates, comparison, decision."""

import math
import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple, cast

import torch

from pyro_bayesprune._utils.calls import call_with
from pyro_bayesprune._utils.random import random_stream
from pyro_bayesprune.data.dataset import Dataset
from pyro_bayesprune.data.loading import Data, random_sample
from pyro_bayesprune.inference.bayes_factor import BayesFactor
from pyro_bayesprune.inference.conditioning import Conditioning
from pyro_bayesprune.inference.evidence import occam_gains
from pyro_bayesprune.inference.log_joint import LogJoint, batches_at
from pyro_bayesprune.inference.metrics import layer_sparsity, sparsity
from pyro_bayesprune.models.module import BayesianModule, Masks, Model
from pyro_bayesprune.pruning.comparison import COMPARISONS, Comparison, LogOccamRatio
from pyro_bayesprune.pruning.gates import Decision, accepts, is_closed, prior_decides
from pyro_bayesprune.pruning.masks import apply_masks, propose_masks
from pyro_bayesprune.pruning.record import PruneState, Record, Try
from pyro_bayesprune.pruning.registry import Gate
from pyro_bayesprune.pruning.settings import Pruning

MAX_HALVINGS = 6


def prune_step(
    model: Model,
    state: PruneState,
    data: Data,
    pruning: Pruning,
    *,
    epoch: int = 1,
    epochs: int = 1,
    generator: torch.Generator | None = None,
    temperature: float = 1.0,
) -> tuple[PruneState, Record]:
    """Build pruned candidates, compare them with the network, decide (paper, Algorithm 1).

    Args:
        model: the Pyro model.
        state: weights, masks (of all prunable sites) and the log Bayes factor recorded last.
        data: all training examples in any form that `as_batches` accepts; decisions use no
            others.
        pruning: how to prune.
        epoch: the epoch that has ended, counted from 1.
        epochs: number of epochs of the training, for the schedule.
        generator: random numbers for the criterion.
        temperature: divides the log likelihood.

    Returns:
        The new state, whose pruned weights are exactly zero, and the record.

    Raises:
        ValueError: if a log Bayes factor is not a number.
    """
    batches = batches_at(data, state.weights)
    num_data = batches.num_data
    if isinstance(data, Dataset):  # for a criterion of the user's
        data = data.to(batches.device)
    else:
        data = batches.whole() if isinstance(data, tuple) else batches
    masks = {name: mask | pruning.regrow for name, mask in state.masks.items()}
    current = PruneState(state.weights, masks, state.log_bf)
    target = pruning.target(epoch, epochs)
    settings = {"model": model, "data": data, "generator": generator, "temperature": temperature}
    increases = bool(masks) and target > sparsity(masks) and pruning.may_prune(epoch, epochs)
    conditioning = _conditioning(current, settings) if increases and pruning.conditions else None
    occam = _log_occam_ratio(current, pruning, settings, conditioning) if increases else None
    order = random_stream(generator.initial_seed() if generator else 0, "subset", epoch)
    comparison = COMPARISONS[pruning.evaluation]
    compare = comparison(model, current, batches, pruning, temperature, occam, order)
    threshold = compare.log_threshold() if increases or pruning.gate != "retain" else math.nan
    candidates = _candidates(current, pruning, target, settings) if increases else iter(())
    outcome = _first_accepted(candidates, current, compare, pruning, conditioning, threshold)
    tries, new_masks = outcome.tries, outcome.state.masks
    factor = tries[-1].bayes_factor if tries else BayesFactor(0.0, 0.0, num_data, pruning.kind)
    record = Record(
        epoch=epoch,
        before=compare.before,
        after=outcome.log_joint,
        bayes_factor=factor,
        recorded=state.log_bf if pruning.gate == "previous" else None,
        log_threshold=threshold,
        decision=outcome.decision,
        tries=tries,
        prior_decides=prior_decides(factor, threshold),
        target=target,
        sparsity_before=sparsity(masks),
        sparsity=sparsity(new_masks),
        layers=layer_sparsity(new_masks),
        projected=conditioning.projected if conditioning else (),
    )
    if not pruning.may_prune(epoch + 1, epochs):
        _warn_if_closed(pruning.gate, record)
    return PruneState(outcome.state.weights, new_masks, factor.log), record


def _warn_if_closed(gate: Gate, record: Record) -> None:
    """Warn if the gate ``retain`` has not opened by its last step, and nothing was compared."""
    if gate == "retain" and record.decision == "refused" and not record.tries:
        message = (
            f"the gate 'retain' refused to prune in epoch {record.epoch}, its last step: the log "
            f"joint of the network is not above that of the network without its prunable weights. "
            f"The prior may be too narrow for so few examples (see priors.normal_per_datum), or "
            f"the training too short"
        )
        warnings.warn(message, RuntimeWarning, stacklevel=3)


def _conditioning(current: PruneState, settings: Mapping[str, Any]) -> Conditioning:
    """Return the Gaussian approximation around the current weights, from a random sample."""
    sample = random_sample(settings["data"], settings["generator"])
    sites, temperature = tuple(current.masks), settings["temperature"]
    return Conditioning(settings["model"], current.weights, sample, sites, temperature)


def _log_occam_ratio(
    current: PruneState,
    pruning: Pruning,
    settings: Mapping[str, Any],
    conditioning: Conditioning | None,
) -> LogOccamRatio | None:
    """Return the change of the log Occam factor as a function of new masks; None for kind joint.

    At the conditioned point it is that of all removed weights of a unit together. Elsewhere it is
    the sum of the gains of single weights.
    """
    before = current.masks
    if pruning.kind == "joint":
        return None
    if conditioning is not None:
        return partial(conditioning.occam_gain, before)
    gains = occam_gains(
        cast(BayesianModule, settings["model"]),
        current.weights,
        random_sample(settings["data"], settings["generator"]),
        temperature=settings["temperature"],
        sites=before,
    )
    return lambda after: sum(gains[n][before[n] & ~after[n]].sum().item() for n in before)


def _candidates(
    current: PruneState, pruning: Pruning, target: float, settings: Mapping[str, Any]
) -> Iterator[Masks]:
    """Yield masks at the target, then masks with half of the previous increase in sparsity."""
    start = sparsity(current.masks)
    scores = call_with(pruning.score, current.weights, current.masks, **settings)
    first = 1 if pruning.sparsity == "auto" else 0
    for halvings in range(first, MAX_HALVINGS + 1):
        level = start + (target - start) / 2**halvings if halvings else target
        masks = propose_masks(scores, current.weights, current.masks, level, pruning.scope)
        if all(torch.equal(masks[name], mask) for name, mask in current.masks.items()):
            return
        yield masks


class _Outcome(NamedTuple):
    decision: Decision
    state: PruneState
    log_joint: LogJoint
    tries: tuple[Try, ...]


def _first_accepted(
    candidates: Iterator[Masks],
    current: PruneState,
    compare: Comparison,
    pruning: Pruning,
    conditioning: Conditioning | None,
    threshold: float,
) -> _Outcome:
    """Compare the candidates in order until the gate accepts one."""
    tries: tuple[Try, ...] = ()
    decision: Decision = "unchanged"
    for masks in candidates:
        decision = "refused"
        if is_closed(pruning.gate, current.log_bf, threshold):
            break
        projected = PruneState(apply_masks(current.weights, masks), masks)
        candidate, log_joint, attempt = _judge(projected, compare, conditioning)
        tries = (*tries, attempt)
        if math.isnan(attempt.bayes_factor.log):
            raise ValueError(f"the log Bayes factor is not a number: {attempt.bayes_factor}")
        if accepts(pruning.gate, attempt.bayes_factor.log, threshold):
            if pruning.update == "project" and candidate is not projected:
                return _Outcome("pruned", projected, compare(projected)[0], tries)
            return _Outcome("pruned", candidate, log_joint, tries)
    unpruned = PruneState(apply_masks(current.weights, current.masks), current.masks)
    return _Outcome(decision, unpruned, compare.before, tries)


def _judge(
    projected: PruneState, compare: Comparison, conditioning: Conditioning | None
) -> tuple[PruneState, LogJoint, Try]:
    """Compare a candidate at its projection, or at the best of its points by conditioning."""
    candidates = [projected]
    if conditioning is not None:
        points = conditioning.points(projected.masks)
        candidates += [PruneState(weights, projected.masks) for weights in points]
    results = [(candidate, *compare(candidate)) for candidate in candidates]
    return max(results, key=lambda result: result[2].bayes_factor.log)
