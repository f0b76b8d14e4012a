"""The pruning step at the end of an epoch: candidates, comparison, decision."""

import math
from collections.abc import Iterator
from typing import NamedTuple, cast

import torch

from pyro_bayesprune._utils.calls import call_with
from pyro_bayesprune._utils.random import random_stream
from pyro_bayesprune.data.dataset import Dataset, Pair, random_sample, train_part
from pyro_bayesprune.inference.bayes_factor import BayesFactor
from pyro_bayesprune.inference.evidence import occam_gains
from pyro_bayesprune.inference.log_joint import LogJoint
from pyro_bayesprune.inference.metrics import layer_sparsity, sparsity
from pyro_bayesprune.models.module import BayesianModule, Masks, Model, Weights
from pyro_bayesprune.pruning.comparison import Compare, full_comparison, sequential_comparison
from pyro_bayesprune.pruning.gates import Decision, accepts, is_closed, prior_decides
from pyro_bayesprune.pruning.masks import apply_masks, propose_masks
from pyro_bayesprune.pruning.record import PruneState, Record, Try
from pyro_bayesprune.pruning.settings import Pruning

MAX_HALVINGS = 6


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
    comparison = sequential_comparison if pruning.evaluation == "sequential" else full_comparison
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
        network, sample = cast(BayesianModule, model), random_sample((x, y), generator)
        gains = occam_gains(network, state.weights, sample, temperature=temperature, sites=kept)
    candidates = _candidates(
        model, state.weights, kept, data, pruning, target, generator, temperature
    )
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
        if is_closed(pruning.gate, state.log_bf, threshold):
            return nothing._replace(decision="refused")
        removed = {n: nothing.masks[n] & ~masks[n] for n in gains if n in masks}
        occam = sum(gains[n][gone].sum().item() for n, gone in removed.items())
        after, seen = compare(PruneState(apply_masks(state.weights, masks), masks), occam)
        tries = (*tries, seen)
        if math.isnan(seen.bayes_factor.log):
            raise ValueError(f"the log Bayes factor is not a number: {seen.bayes_factor}")
        if accepts(pruning.gate, seen.bayes_factor.log, threshold):
            return _Found(masks, after, "pruned", tries)
    return nothing._replace(decision="refused" if tries else "unchanged", tries=tries)


def _candidates(
    model: Model,
    weights: Weights,
    masks: Masks,
    data: Dataset | Pair,
    pruning: Pruning,
    target: float,
    generator: torch.Generator | None,
    temperature: float,
) -> Iterator[Masks]:
    """Yield masks at the target, then with the increase in sparsity halved again and again."""
    start = sparsity(masks)
    if not masks or target <= start:
        return
    settings = {"model": model, "data": data, "generator": generator, "temperature": temperature}
    scores = call_with(pruning.score, weights, masks, **settings)
    for halvings in range(int(pruning.sparsity == "auto"), MAX_HALVINGS + 1):
        level = start + (target - start) / 2**halvings if halvings else target
        proposed = propose_masks(scores, weights, masks, level, pruning.scope)
        if all(torch.equal(proposed[name], masks[name]) for name in masks):
            return
        yield proposed
