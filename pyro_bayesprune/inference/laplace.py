"""Draws from Laplace approximations around a pruned MAP."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyro_bayesprune._utils.random import seeded
from pyro_bayesprune.data.dataset import Dataset, Pair, train_part
from pyro_bayesprune.inference.curvature import ggn_diagonal, ggn_kron, prior_precision
from pyro_bayesprune.inference.draw_predictions import CHUNK, only_last_layer
from pyro_bayesprune.inference.draws import gather
from pyro_bayesprune.inference.layer_curvature import Kron
from pyro_bayesprune.models.module import BayesianModule, Weights

MAX_KRON = 12000  # surviving weights of a pruned parameter: their precision is factorised, 1 GiB
Drawn = tuple[Tensor, Tensor, dict[str, Tensor]]


def laplace_draws(
    model: BayesianModule,
    weights: Weights,
    index: dict[str, Tensor],
    data: Dataset | Pair,
    draws: int,
    seed: int,
    ggn: Mapping[str, Tensor] | None,
) -> Drawn:
    """Draw w = θ + P^(-1/2) ε, ε ~ N(0, I)."""
    ggn = _ggn(model, weights, index, data) if ggn is None else ggn
    precision = gather(ggn, index) + gather(prior_precision(model, weights), index)
    centre = gather(weights, index)
    with seeded(seed, "laplace"):
        noise = torch.randn(1, draws, len(centre), dtype=centre.dtype)
    log_q = precision.log().sum() / 2 - noise.double().square().sum(-1) / 2
    return centre + noise * precision.rsqrt().to(centre), log_q, {}


def _ggn(
    model: BayesianModule, weights: Weights, index: Mapping[str, Tensor], data: Dataset | Pair
) -> Weights:
    """The GGN's diagonal; of the last layer alone, from its inputs: a fraction of the time."""
    head = _head(model, weights, index, data)
    if head is None:
        return ggn_diagonal(model, weights, data, chunk_size=CHUNK)
    found = ggn_diagonal(head.model, head.weights, head.data)
    return {full: found[n] for n, full in head.names.items()}


class _Head(NamedTuple):
    """The last layer as a model of its own, on its inputs; ``names``: of the whole network."""

    model: BayesianModule
    weights: Weights
    data: Pair
    names: dict[str, str]


def _head(
    model: BayesianModule, weights: Weights, index: Mapping[str, Tensor], data: Dataset | Pair
) -> _Head | None:
    """The last layer, or None where other parameters are drawn as well."""
    x, y = train_part(data)
    last = only_last_layer(model, weights, index, x)
    if last is None:
        return None
    names, features = last
    short = {name.rpartition(".")[2]: name for name in names}
    outputs, inputs = weights[short["weight"]].shape
    layer = nn.Linear(inputs, outputs, "bias" in short, dtype=features.dtype)
    head = BayesianModule(layer, model.prior, model.num_data, model.likelihood)
    return _Head(head, {n: weights[full] for n, full in short.items()}, (features, y), short)


def last_layer_laplace_draws(
    model: BayesianModule,
    weights: Weights,
    index: dict[str, Tensor],
    data: Dataset | Pair,
    draws: int,
    seed: int,
) -> Drawn:
    """Draw w = θ + P^(-1/2) ε, P the Kronecker-factored GGN and the prior's precision."""
    head = _head(model, weights, index, data)
    if head is None:
        raise ValueError(f"last_layer_laplace draws the last layer's parameters, not {list(index)}")
    factors, delta = ggn_kron(head.model, head.weights, head.data), prior_precision(model, weights)
    centre = gather(weights, index)
    with seeded(seed, "last layer laplace"):
        noise = torch.randn(draws, len(centre), dtype=torch.float64)
    parts = dict(zip(index, noise.split([len(i) for i in index.values()], 1), strict=True))
    short = {full: n for n, full in head.names.items()}
    changes = [
        _kron_noise(factors[short[n]], i, delta[n].flatten()[i], parts[n]) for n, i in index.items()
    ]
    values = centre + torch.cat(changes, 1).to(centre)
    return values[None], -noise.square().sum(-1)[None] / 2, {}


def _kron_noise(kron: Kron, index: Tensor, delta: Tensor, noise: Tensor) -> Tensor:
    """Return P^(-1/2) ε for rows ε (S, d): P = B ⊗ A + diag(δ), of the weights at ``index``.

    Where all are drawn and share one δ, from the factors' eigenvectors; else P is factorised.
    """
    a, b = kron.inputs.double(), kron.outputs.double()
    if len(index) == len(a) * len(b) and (delta == delta[0]).all():
        (in_values, ins), (out_values, outs) = torch.linalg.eigh(a), torch.linalg.eigh(b)
        precision = torch.outer(out_values.clamp(min=0), in_values.clamp(min=0)) + delta[0]
        return (outs @ (noise.view(-1, *precision.shape) * precision.rsqrt()) @ ins.mT).flatten(1)
    if len(index) > MAX_KRON:
        raise ValueError(
            f"last_layer_laplace is for a pruned last layer of up to {MAX_KRON} surviving weights, "
            f"got {len(index)}: use laplace"
        )
    rows, columns = index // len(a), index % len(a)
    precision = b[rows][:, rows].mul_(a[columns][:, columns])  # in place: these are large
    precision.diagonal().add_(delta)
    factor = torch.linalg.cholesky(precision)
    return torch.linalg.solve_triangular(factor.mT, noise.mT, upper=True).mT
