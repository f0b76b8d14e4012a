"""Criteria: functions that score the weights of each site; the lowest scores are pruned first.

A criterion is ``(weights, masks, *, model, data, generator, temperature) -> dict[site, scores]``;
it receives those of the named settings that it takes. Weights that are zero already go first
whatever their score.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_bayesprune.data.dataset import Dataset, Pair, random_sample
from pyro_bayesprune.inference import curvature, evidence
from pyro_bayesprune.inference.savage_dickey import savage_dickey as log_factor
from pyro_bayesprune.models.module import BayesianModule

Criterion = Callable[..., dict[str, Tensor]]


def random(
    weights: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    *,
    generator: torch.Generator,
    **_: Any,
) -> dict[str, Tensor]:
    """Score weights by uniform random numbers (paper, Algorithm 2)."""
    return {
        name: torch.rand(mask.shape, generator=generator, device="cpu").to(weights[name].device)
        for name, mask in masks.items()
    }


def magnitude(
    weights: Mapping[str, Tensor], masks: Mapping[str, Tensor], **_: Any
) -> dict[str, Tensor]:
    """Score weights by their absolute value (paper, Algorithm 3)."""
    return {name: weights[name].abs() for name in masks}


def shuffled_magnitude(
    weights: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    *,
    generator: torch.Generator,
    **_: Any,
) -> dict[str, Tensor]:
    """Score weights by the magnitudes of others of their layer: a control.

    The surviving magnitudes of each layer are shuffled among its surviving weights, so that a layer
    loses as many weights as under `magnitude`, but which ones is random.
    """
    scores = magnitude(weights, masks)
    for name, mask in masks.items():
        kept = scores[name][mask]
        order = torch.randperm(len(kept), generator=generator, device="cpu").to(kept.device)
        scores[name] = scores[name].masked_scatter(mask, kept[order])
    return scores


def _ggn(
    weights: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    model: BayesianModule,
    data: Dataset | Pair,
    generator: torch.Generator | None,
    temperature: float,
) -> dict[str, Tensor]:
    """Diagonal of the generalised Gauss-Newton matrix, estimated from a sample; float64."""
    diagonal = curvature.ggn_diagonal(model, weights, random_sample(data, generator))
    return {name: diagonal[name] / temperature for name in masks}


def fisher(
    weights: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    *,
    model: BayesianModule,
    data: Dataset | Pair,
    generator: torch.Generator | None = None,
    temperature: float = 1.0,
) -> dict[str, Tensor]:
    """Score weights by ½ F_ii θ_i²: what removing one costs in log likelihood to second order.

    Taylor's expansion at a maximum (LeCun et al., 1990, optimal brain damage; Theis et al., 2018),
    with F the Fisher information, which is the GGN for these likelihoods; nats.
    """
    ggn = _ggn(weights, masks, model, data, generator, temperature)
    return {name: ggn[name] * weights[name].double().square() / 2 for name in masks}


def opd(
    weights: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    *,
    model: BayesianModule,
    data: Dataset | Pair,
    generator: torch.Generator | None = None,
    temperature: float = 1.0,
) -> dict[str, Tensor]:
    """Score weights by P_ii θ_i², P the posterior precision (Dhahri et al., 2024, SpaM's OPD).

    `fisher` with the prior's part: twice the cost in log joint, the other weights held.
    """
    ggn = _ggn(weights, masks, model, data, generator, temperature)
    delta = curvature.prior_precision(model, weights)
    return {n: (ggn[n] + delta[n]) * weights[n].double().square() for n in masks}


def snr(
    weights: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    *,
    model: BayesianModule,
    data: Dataset | Pair,
    generator: torch.Generator | None = None,
    temperature: float = 1.0,
) -> dict[str, Tensor]:
    """Score weights by their signal-to-noise ratio ``|θ_i| / sd_i`` (Graves, 2011).

    The posterior's standard deviation is the *marginal* one, from Kronecker factors where the
    network has them: the other weights may adjust. (With sd_i = P_ii^-½ it would rank as `opd`.)
    """
    precision = evidence.marginal_precision(
        model, weights, random_sample(data, generator), masks, temperature=temperature
    )
    return {n: precision[n].sqrt() * weights[n].double().abs() for n in masks}


def savage_dickey(
    weights: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    *,
    model: BayesianModule,
    data: Dataset | Pair,
    generator: torch.Generator | None = None,
    temperature: float = 1.0,
) -> dict[str, Tensor]:
    """Score weights by minus the Savage-Dickey log Bayes factor in favour of removing each; nats.

    See `pyro_bayesprune.inference.savage_dickey`; the precision is P_ii, the other weights held.
    The prior scale is each layer's own, from the data (empirical Bayes): σ² is the mean square of
    the layer's surviving weights. Under a fixed σ ten times as wide, every single weight is better
    removed (Lindley's effect), those that the data determine best first of all; these share what
    they determine, and zeroing the first 4% of a network so ranked cost more than one nat an
    example on MNIST.
    """
    ggn = _ggn(weights, masks, model, data, generator, temperature)
    scores = {}
    for name, mask in masks.items():
        theta = weights[name].double()
        tiny = torch.finfo(theta.dtype).tiny  # of a layer that is all zero
        delta = mask.sum().clamp(min=1) / theta[mask].square().sum().clamp(min=tiny)
        scores[name] = -log_factor(theta, ggn[name] + delta, delta)
    return scores
