"""Draws from Laplace approximations around a pruned MAP."""

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pyro_bayesprune._utils.random import seeded
from pyro_bayesprune.data.batches import Batches
from pyro_bayesprune.inference.blocks import layer_blocks
from pyro_bayesprune.inference.curvature import check_lifted, ggn_diagonal, prior_precision
from pyro_bayesprune.inference.draw_predictions import CHUNK, last_layer, only_last_layer
from pyro_bayesprune.inference.draws import gather
from pyro_bayesprune.inference.mode import log_joint_gradient, warn_if_far
from pyro_bayesprune.models.module import BayesianModule, Weights

MAX_KRON = 12000  # surviving weights of a pruned layer: their precision matrix takes 1 GiB
AtPoint = tuple[BayesianModule, Weights, Batches]
Drawn = tuple[Tensor, Tensor, dict[str, Tensor]]


def laplace_draws(
    model: BayesianModule,
    weights: Weights,
    index: dict[str, Tensor],
    data: Batches,
    draws: int,
    seed: int,
    temperature: float,
) -> Drawn:
    """Draw w = θ + P^(-1/2) ε, ε ~ N(0, I)."""
    check_lifted(model)
    last = _last_layer_as_model(model, weights, index, data)
    at_point = last or (model, weights, data)
    precision = _precision(at_point, index, temperature)
    centre = gather(weights, index)
    with seeded(seed, "laplace"):
        noise = torch.randn(1, draws, len(centre), dtype=centre.dtype, device="cpu")
    log_q = precision.cpu().log().sum() / 2 - noise.double().square().sum(-1) / 2
    return centre + noise.to(centre) * precision.rsqrt().to(centre), log_q, {}


def _precision(at_point: AtPoint, index: Mapping[str, Tensor], temperature: float) -> Tensor:
    """Return the diagonal of the posterior precision at a point; warn if that is far from a mode.

    The last layer alone needs only its inputs, which is faster.
    """
    model, weights, data = at_point
    ggn = gather(ggn_diagonal(model, weights, data, chunk_size=CHUNK), index)
    precision = ggn / temperature + gather(prior_precision(model, weights), index)
    gradient = gather(log_joint_gradient(model, weights, data, temperature=temperature), index)
    warn_if_far("a Laplace approximation", gradient, precision)
    return precision


def _last_layer_as_model(
    model: BayesianModule, weights: Weights, index: Mapping[str, Tensor], data: Batches
) -> AtPoint | None:
    """The last layer as a model of its inputs, or None if parameters of other layers are drawn."""
    one, _ = data.first(1)
    if not only_last_layer(model, weights, index, one):
        return None
    names, few = last_layer(model, weights, one)
    features = data.transformed(lambda x: last_layer(model, weights, x)[1])
    outputs, inputs = weights[names[0]].shape
    net: nn.Module = nn.Linear(inputs, outputs, len(names) > 1, few.device, few.dtype)
    for part in reversed(names[0].split(".")[:-1]):  # priors depend on the names of parameters
        net = nn.Sequential(OrderedDict({part: net}))
    likelihood = model.likelihood_at(weights)
    head = BayesianModule(net, model.prior, model.num_data, likelihood)
    kept = [*names, *(head.hyper_sites() & set(weights))]  # a prior's scales belong to it
    return head, {n: weights[n] for n in kept}, features


def last_layer_laplace_draws(
    model: BayesianModule,
    weights: Weights,
    index: dict[str, Tensor],
    data: Batches,
    draws: int,
    seed: int,
    temperature: float,
) -> Drawn:
    """Draw w = θ + P^(-1/2) ε, where P is the last layer's block of `layer_blocks`."""
    check_lifted(model)
    last = _last_layer_as_model(model, weights, index, data)
    if last is None:
        raise ValueError(f"last_layer_laplace draws the last layer's parameters, not {list(index)}")
    _precision(last, index, temperature)  # warns
    (block,) = layer_blocks(*last, temperature=temperature)
    mask = {n: torch.zeros_like(weights[n], dtype=torch.bool) for n in block.names}
    for name, drawn in index.items():
        mask[name].view(-1)[drawn] = True
    chosen = block.joined(mask)
    _check_size(chosen)
    with seeded(seed, "last layer laplace"):
        noise = torch.randn(draws, int(chosen.sum()), dtype=torch.float64, device="cpu")
    changes = noise.new_zeros(draws, chosen.numel(), device=chosen.device)
    delta = block.joined(prior_precision(model, weights))
    changes[:, chosen.flatten()] = block.noise(delta, chosen, noise.to(chosen.device))
    positions = torch.arange(chosen.numel(), device=chosen.device)
    columns = block.separated(positions.view_as(chosen), weights)
    moved = changes[:, torch.cat([columns[n].flatten()[i] for n, i in index.items()])]
    centre = gather(weights, index)
    return (centre + moved.to(centre))[None], -noise.square().sum(-1)[None] / 2, {}


def _check_size(chosen: Tensor) -> None:
    if not chosen.all() and int(chosen.sum()) > MAX_KRON:
        raise ValueError(
            f"last_layer_laplace is for a pruned last layer of up to {MAX_KRON} surviving weights, "
            f"got {int(chosen.sum())}: use laplace"
        )
