"""Draws from Laplace approximations around a pruned MAP."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyro_bayesprune._utils.random import seeded
from pyro_bayesprune.data.dataset import Dataset, Pair, train_part
from pyro_bayesprune.inference.blocks import layer_blocks
from pyro_bayesprune.inference.curvature import ggn_diagonal, prior_precision
from pyro_bayesprune.inference.draw_predictions import CHUNK, only_last_layer
from pyro_bayesprune.inference.draws import gather
from pyro_bayesprune.models.module import BayesianModule, Weights

MAX_KRON = 12000  # surviving weights of a pruned layer: their precision matrix takes 1 GiB
Drawn = tuple[Tensor, Tensor, dict[str, Tensor]]


def laplace_draws(
    model: BayesianModule,
    weights: Weights,
    index: dict[str, Tensor],
    data: Dataset | Pair,
    draws: int,
    seed: int,
    temperature: float,
) -> Drawn:
    """Draw w = θ + P^(-1/2) ε, ε ~ N(0, I)."""
    ggn = gather(_ggn(model, weights, index, data), index)
    precision = ggn / temperature + gather(prior_precision(model, weights), index)
    centre = gather(weights, index)
    with seeded(seed, "laplace"):
        noise = torch.randn(1, draws, len(centre), dtype=centre.dtype, device="cpu")
    log_q = precision.log().sum() / 2 - noise.double().square().sum(-1) / 2
    return centre + noise * precision.rsqrt().to(centre), log_q, {}


def _ggn(
    model: BayesianModule, weights: Weights, index: Mapping[str, Tensor], data: Dataset | Pair
) -> Weights:
    """The diagonal of the GGN. The last layer alone needs only its inputs, which is faster."""
    head = _head(model, weights, index, data)
    if head is None:
        return ggn_diagonal(model, weights, data, chunk_size=CHUNK)
    diagonal = ggn_diagonal(head.model, head.weights, head.data)
    return {full: diagonal[n] for n, full in head.names.items()}


class _Head(NamedTuple):
    """The last layer as a separate model of its inputs, with its names in the whole network."""

    model: BayesianModule
    weights: Weights
    data: Pair
    names: dict[str, str]


def _head(
    model: BayesianModule, weights: Weights, index: Mapping[str, Tensor], data: Dataset | Pair
) -> _Head | None:
    """The last layer, or None if other parameters are drawn too."""
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
    temperature: float,
) -> Drawn:
    """Draw w = θ + P^(-1/2) ε, where P is the last layer's block of `layer_blocks`."""
    head = _head(model, weights, index, data)
    if head is None:
        raise ValueError(f"last_layer_laplace draws the last layer's parameters, not {list(index)}")
    (block,) = layer_blocks(head.model, head.weights, head.data, temperature=temperature)
    delta = prior_precision(model, weights)
    mask = {n: torch.zeros_like(w, dtype=torch.bool) for n, w in head.weights.items()}
    for short, name in head.names.items():
        if name in index:
            mask[short].view(-1)[index[name]] = True
    chosen = block.joined(mask)
    _check_size(chosen)
    with seeded(seed, "last layer laplace"):
        noise = torch.randn(draws, int(chosen.sum()), dtype=torch.float64, device="cpu")
    changes = torch.zeros(draws, chosen.numel(), dtype=torch.float64, device="cpu")
    prior = block.joined({short: delta[name] for short, name in head.names.items()})
    changes[:, chosen.flatten()] = block.noise(prior, chosen, noise)
    places = block.separated(
        torch.arange(chosen.numel(), device="cpu").view_as(chosen), head.weights
    )
    columns = {name: places[short].flatten() for short, name in head.names.items()}
    moved = changes[:, torch.cat([columns[n][i] for n, i in index.items()])]
    centre = gather(weights, index)
    return (centre + moved.to(centre))[None], -noise.square().sum(-1)[None] / 2, {}


def _check_size(chosen: Tensor) -> None:
    if not chosen.all() and int(chosen.sum()) > MAX_KRON:
        raise ValueError(
            f"last_layer_laplace is for a pruned last layer of up to {MAX_KRON} surviving weights, "
            f"got {int(chosen.sum())}: use laplace"
        )
