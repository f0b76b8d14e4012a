"""Curvature of the log joint at a point: the generalised Gauss-Newton matrix and the prior's.

Around a point θ the log joint of a network with independent priors N(0, 1/δ_i) is approximated by

    log p(D, θ + u) ≈ log p(D, θ) + gᵀu - ½ uᵀPu,    P = GGN + diag(δ),

with g its gradient and GGN = Σ_n J_nᵀ H_n J_n the generalised Gauss-Newton matrix of the log
likelihood: J_n the Jacobian of the network's outputs (K of them) for example n, H_n ≥ 0 minus the
Hessian of its log likelihood in the outputs. Its diagonal, its Kronecker factors and, for small
networks, the whole of it are here; what they say of a weight's removal is in `evidence`.
"""

from collections.abc import Iterator, Mapping

import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor
from torch.func import jacrev, vmap

from pyro_bayesprune.data.dataset import Dataset, Pair, train_part
from pyro_bayesprune.inference.layer_curvature import (
    Kron,
    check_lifted,
    has_closed_form,
    layer_factors,
    layer_squares,
    lean_parameters,
    parameters_at,
    root_columns,
)
from pyro_bayesprune.models.module import BayesianModule, Weights, evaluation_mode
from pyro_bayesprune.models.priors import elementwise

CHUNK = 256  # examples; unfolded images of more leave the cache
JACOBIAN_ELEMENTS = 2**25  # of the Jacobians that are in memory at a time


def prior_precision(model: BayesianModule, weights: Mapping[str, Tensor]) -> Weights:
    """Return δ = 1/σ² of each weight's prior N(0, σ²), by parameter, in float64.

    A prior that samples its scale (`priors.layer_scale`) is read at the scale in ``weights``: what
    is built on it is conditional on that scale.

    Raises:
        ValueError: for a prior that is not an independent zero-mean Normal. At zero, where pruning
            looks, a Laplace prior has no second derivative; a Student t's log density is convex in
            its tails, so that its precision is negative there.
    """
    check_lifted(model)
    found = {}
    for name, prior in poutine.condition(model.priors, data=dict(weights))().items():
        base = elementwise(prior)
        if type(base) is not dist.Normal or bool((base.loc != 0).any()):
            raise ValueError(
                f"an evidence needs independent zero-mean Normal priors, the prior of {name!r} is "
                f"{type(base).__name__} (a Laplace prior has no curvature at zero, that of a "
                f"Student t is indefinite)"
            )
        found[name] = base.scale.detach().double().pow(-2).expand(prior.event_shape)
    return found


def ggn_diagonal(
    model: BayesianModule,
    weights: Mapping[str, Tensor],
    data: Dataset | Pair,
    *,
    draws: int | None = None,
    generator: torch.Generator | None = None,
    chunk_size: int = CHUNK,
) -> Weights:
    """Return the diagonal Σ_n Σ_c (J_nᵀ s_nc)_i² of the GGN, by parameter, in float64.

    Exact (to rounding): s_nc are the columns of `hessian_root`, one backward pass each. Where every
    parameter belongs to a Linear or Conv2d layer that is used once, the squares have a closed form;
    elsewhere the Jacobians are built example by example, which suits small networks only.

    With ``draws`` columns are mixed by random signs, s_n = Σ_c ±s_nc: E (J_nᵀ s_n)² is the same
    diagonal. One draw costs one backward pass instead of K; the estimate is unbiased.

    Args:
        model: the lifted network, in whatever mode; it is evaluated in evaluation mode.
        weights: the point.
        data: n examples, as a rule all N; sums are scaled by N/n, so a random subset is an
            unbiased estimate.
        draws: random combinations an example; None for the exact diagonal.
        generator: of the random signs.
        chunk_size: examples in memory at a time.
    """
    check_lifted(model)
    x, _ = train_part(data)
    point = parameters_at(model, weights)
    total = {n: torch.zeros(w.shape, dtype=torch.float64) for n, w in point.items()}
    squares = _jacobian_squares
    if has_closed_form(model, point, x):
        squares, point = layer_squares, lean_parameters(model, weights)
    with evaluation_mode(model):
        for chunk in x.split(chunk_size):
            for name, part in squares(model, point, chunk, draws, generator).items():
                total[name] += part.cpu()
    return {n: (t * (model.num_data / len(x))).to(point[n].device) for n, t in total.items()}


def ggn_kron(
    model: BayesianModule,
    weights: Mapping[str, Tensor],
    data: Dataset | Pair,
    *,
    chunk_size: int = CHUNK,
) -> dict[str, Kron]:
    """Return the Kronecker-factored GGN (Martens & Grosse, 2015), a block for each parameter.

    A layer's block Σ_n Σ_c (b_nc b_ncᵀ) ⊗ (a_n a_nᵀ) is replaced by Σ bbᵀ ⊗ mean(aaᵀ), as if inputs
    and gradients were uncorrelated; so are blocks of different parameters, a bias's and its
    layer's. Exact for a linear layer alone under a gaussian likelihood, where b is the same for
    all examples, and for one example. Positions of a convolution count like examples.

    Args:
        model: the lifted network.
        weights: the point.
        data: n examples; sums are scaled by N/n, as in `ggn_diagonal`.
        chunk_size: examples in memory at a time.

    Raises:
        ValueError: for a network with parameters outside Linear and plain Conv2d layers.
    """
    check_lifted(model)
    x, _ = train_part(data)
    point = parameters_at(model, weights)
    if not has_closed_form(model, weights, x):
        raise ValueError(
            "Kronecker factors need a network whose parameters all belong to Linear or plain "
            "Conv2d layers, each used once"
        )
    found: dict[str, Kron] = {}
    with evaluation_mode(model):
        for chunk in x.split(chunk_size):
            for name, part in layer_factors(model, point, chunk).items():
                total = found.get(name, Kron(*map(torch.zeros_like, part)))
                found[name] = Kron(total.inputs + part.inputs, total.outputs + part.outputs)
    scale = model.num_data / len(x)
    return {n: Kron(k.inputs / len(x), k.outputs * scale) for n, k in found.items()}


def _jacobians(model: BayesianModule, point: Weights, x: Tensor) -> Weights:
    """Jacobians of the outputs, by parameter (n, K, *shape): examples one by one, under vmap."""

    def outputs(weights: Weights, one: Tensor) -> Tensor:
        return model.outputs(weights, one[None])[0].flatten()

    detached = {n: w.detach() for n, w in point.items()}
    return vmap(jacrev(outputs), in_dims=(None, 0))(detached, x)


def _rooted_jacobians(
    model: BayesianModule,
    point: Weights,
    x: Tensor,
    draws: int | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[Weights]:
    """Yield Sᵀ J by parameter (n, c, *shape), a few examples at a time: GGN = Σ (SᵀJ)ᵀ(SᵀJ)."""
    with torch.no_grad():
        size = model.outputs(point, x[:1]).numel() * sum(w.numel() for w in point.values())
    for part in x.split(max(1, JACOBIAN_ELEMENTS // size)):
        with torch.no_grad():
            roots = root_columns(model, model.outputs(point, part), draws, generator)
        jacobians = _jacobians(model, point, part)
        yield {n: torch.einsum("nkc,nk...->nc...", roots, j) for n, j in jacobians.items()}


def _jacobian_squares(
    model: BayesianModule,
    point: Weights,
    x: Tensor,
    draws: int | None,
    generator: torch.Generator | None,
) -> Weights:
    """Σ_n Σ_c (J_nᵀ s_nc)² for any module that treats examples independently."""
    parts = list(
        {n: j.square().sum((0, 1)) for n, j in chunk.items()}
        for chunk in _rooted_jacobians(model, point, x, draws, generator)
    )
    return {n: torch.stack([part[n] for part in parts]).sum(0) for n in point}


def ggn_full(model: BayesianModule, weights: Mapping[str, Tensor], data: Dataset | Pair) -> Tensor:
    """Return the GGN (W, W), float64, over all W parameters in the order of `flat`.

    Exact. Memory grows as W², time as N·K·W²: for networks of a few thousand parameters.
    """
    check_lifted(model)
    x, _ = train_part(data)
    point = parameters_at(model, weights)
    size = sum(w.numel() for w in point.values())
    total = torch.zeros(size, size, dtype=torch.float64)
    with evaluation_mode(model):
        for chunk in _rooted_jacobians(model, point, x):
            rows = torch.cat([j.flatten(2) for j in chunk.values()], 2).flatten(0, 1).double().cpu()
            total += rows.mT @ rows
    return total * (model.num_data / len(x))


def flat(model: BayesianModule, values: Mapping[str, Tensor]) -> Tensor:
    """Return values by parameter as one float64 vector (W,), in the order of named_parameters."""
    names = [n for n, _ in model.net.named_parameters()]
    return torch.cat([values[n].detach().double().flatten().cpu() for n in names])


def gradient(model: BayesianModule, weights: Mapping[str, Tensor], data: Dataset | Pair) -> Weights:
    """Return the gradient of the log joint over all training examples, by parameter, float64."""
    x, y = train_part(data)
    point = parameters_at(model, weights)
    delta = prior_precision(model, weights)
    total = {n: -delta[n] * w.detach().double() for n, w in point.items()}
    with evaluation_mode(model):
        for chunk, targets in zip(x.split(CHUNK), y.split(CHUNK), strict=True):
            log_likelihood = model.likelihood(model.outputs(point, chunk)).log_prob(targets).sum()
            for name, part in zip(
                point, torch.autograd.grad(log_likelihood, list(point.values())), strict=True
            ):
                total[name] += part.double()
    return total
