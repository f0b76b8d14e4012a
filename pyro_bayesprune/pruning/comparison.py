"""Comparison of a candidate with the network before the step, on all data or a part."""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from pyro_bayesprune.data.dataset import Pair
from pyro_bayesprune.inference.bayes_factor import BayesFactor
from pyro_bayesprune.inference.log_joint import LogJoint, log_densities, log_joint
from pyro_bayesprune.inference.metrics import sparsity
from pyro_bayesprune.models.module import Model, Weights
from pyro_bayesprune.pruning.record import PruneState, Try
from pyro_bayesprune.pruning.sequential import estimate_sum
from pyro_bayesprune.pruning.settings import Pruning

Compare = Callable[[PruneState, float], tuple[LogJoint, Try]]


def full_comparison(
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


def sequential_comparison(
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
    shuffled = torch.randperm(len(x), generator=order, device="cpu").to(x.device)

    def reader(weights: Weights) -> Callable[[int], tuple[Tensor, float]]:
        read, log_prior = torch.zeros(0, dtype=torch.float64, device="cpu"), 0.0

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
