"""Criteria: functions that score the weights of each site; the lowest scores are pruned first.

A criterion is ``(weights, masks, *, model, data, generator, temperature) -> dict[site, scores]``.
It receives only the named settings that it accepts. Weights that are already zero are pruned first,
whatever their score. The curvature criteria estimate the curvature from a random sample of the data
and need a `BayesianModule`; ``generator`` and ``temperature`` are optional for them.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_bayesprune.data.loading import Data, random_sample
from pyro_bayesprune.inference import curvature, evidence
from pyro_bayesprune.inference.savage_dickey import savage_dickey as log_factor
from pyro_bayesprune.models.module import BayesianModule, Masks, Weights

Scores = dict[str, Tensor]
Criterion = Callable[..., Scores]


def random(weights: Weights, masks: Masks, *, generator: torch.Generator, **_: Any) -> Scores:
    """Score weights by uniform random numbers (paper, Algorithm 2)."""
    return {
        name: torch.rand(mask.shape, generator=generator, device="cpu").to(weights[name].device)
        for name, mask in masks.items()
    }


def magnitude(weights: Weights, masks: Masks, **_: Any) -> Scores:
    """Score weights by their absolute value (paper, Algorithm 3)."""
    return {name: weights[name].abs() for name in masks}


def shuffled_magnitude(
    weights: Weights, masks: Masks, *, generator: torch.Generator, **_: Any
) -> Scores:
    """Score weights by the magnitudes of other weights of their layer, as a control.

    The magnitudes of the surviving weights are shuffled within each layer. A layer loses as many
    weights as under `magnitude`, but a random choice of them.
    """
    scores = magnitude(weights, masks)
    for name, mask in masks.items():
        surviving = scores[name][mask]
        order = torch.randperm(len(surviving), generator=generator, device="cpu")
        scores[name] = scores[name].masked_scatter(mask, surviving[order.to(surviving.device)])
    return scores


def _ggn(
    weights: Weights,
    masks: Masks,
    *,
    model: BayesianModule,
    data: Data,
    generator: torch.Generator | None = None,
    temperature: float = 1.0,
) -> Weights:
    """Diagonal of the generalised Gauss-Newton matrix, estimated from a sample; float64."""
    diagonal = curvature.ggn_diagonal(model, weights, random_sample(data, generator))
    return {name: diagonal[name] / temperature for name in masks}


def fisher(weights: Weights, masks: Masks, **settings: Any) -> Scores:
    """Score weights by ½ F_ii θ_i², the second-order loss of log likelihood, in nats.

    This is Taylor's expansion at a maximum (LeCun et al., 1990, optimal brain damage; Theis et al.,
    2018). F is the Fisher information, which is the GGN for these likelihoods.
    """
    ggn = _ggn(weights, masks, **settings)
    return {name: ggn[name] * weights[name].double().square() / 2 for name in masks}


def opd(weights: Weights, masks: Masks, *, model: BayesianModule, **settings: Any) -> Scores:
    """Score weights by P_ii θ_i², P the posterior precision (Dhahri et al., 2024, SpaM's OPD).

    This is twice the second-order loss of log joint if the other weights are fixed.
    """
    ggn = _ggn(weights, masks, model=model, **settings)
    delta = curvature.prior_precision(model, weights)
    return {n: (ggn[n] + delta[n]) * weights[n].double().square() for n in masks}


def snr(
    weights: Weights,
    masks: Masks,
    *,
    model: BayesianModule,
    data: Data,
    generator: torch.Generator | None = None,
    temperature: float = 1.0,
) -> Scores:
    """Score weights by their signal-to-noise ratio ``|θ_i| / sd_i`` (Graves, 2011).

    The standard deviation is that of the *marginal* posterior, in which the other weights may
    adjust. It uses Kronecker factors if the network has them. With sd_i = P_ii^-½ the ranking would
    be that of `opd`.
    """
    precision = evidence.marginal_precision(
        model, weights, random_sample(data, generator), masks, temperature=temperature
    )
    return {n: precision[n].sqrt() * weights[n].double().abs() for n in masks}


def savage_dickey(weights: Weights, masks: Masks, **settings: Any) -> Scores:
    """Score weights by minus the Savage-Dickey log Bayes factor in favour of removal, in nats.

    See `pyro_bayesprune.inference.savage_dickey`. The precision is P_ii; the other weights are
    fixed. The prior scale is estimated for each layer (empirical Bayes): σ² is the mean square of
    its surviving weights. Under a fixed σ ten times as wide, the factor favours the removal of
    every single weight (Lindley's effect), and most of all of those that the data determine best.
    Together these weights matter: pruning the first 4% in that order cost more than one nat an
    example on MNIST.
    """
    ggn = _ggn(weights, masks, **settings)
    scores = {}
    for name, mask in masks.items():
        theta = weights[name].double()
        tiny = torch.finfo(theta.dtype).tiny  # for a layer whose weights are all zero
        delta = mask.sum().clamp(min=1) / theta[mask].square().sum().clamp(min=tiny)
        scores[name] = -log_factor(theta, ggn[name] + delta, delta)
    return scores
