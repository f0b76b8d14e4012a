"""Curvature of the log joint at a point: the generalised Gauss-Newton matrix and the prior's.

Around a point θ the log joint of a network with independent priors N(0, 1/δ_i) is approximated by

    log p(D, θ + u) ≈ log p(D, θ) + gᵀu - ½ uᵀPu,    P = GGN + diag(δ),

with g its gradient and GGN = Σ_n J_nᵀ H_n J_n the generalised Gauss-Newton matrix of the log
likelihood: J_n the Jacobian of the network's outputs (K of them) for example n, H_n ≥ 0 minus the
Hessian of its log likelihood in the outputs. Its diagonal, its Kronecker factors and, for small
networks, the whole of it are here; what they say of a weight's removal is in `evidence`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, cast

import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.func import jacrev, vmap

from pyro_bayesprune.data import Dataset, Pair, train_part
from pyro_bayesprune.model import (
    BayesianModule,
    Model,
    Weights,
    categorical,
    evaluation_mode,
    gaussian,
)
from pyro_bayesprune.posterior import lean
from pyro_bayesprune.priors import elementwise

CHUNK = 256  # examples; unfolded images of more leave the cache
SAMPLE = 2048  # examples from which the curvature that a pruning step uses is estimated
BLOCK = 1024  # weights whose Jacobian is held at a time where it is used at once: in a cache
JACOBIAN_ELEMENTS = 2**25  # of the Jacobians that are in memory at a time


def random_sample(data: Dataset | Pair, generator: torch.Generator | None = None) -> Pair:
    """Return `SAMPLE` random training examples; all of them where there are no more."""
    x, y = train_part(data)
    if len(x) <= SAMPLE:
        return x, y
    chosen = torch.randperm(len(x), generator=generator)[:SAMPLE].to(x.device)
    return x[chosen], y[chosen]


def prior_precision(model: BayesianModule, weights: Mapping[str, Tensor]) -> Weights:
    """Return δ = 1/σ² of each weight's prior N(0, σ²), by parameter, in float64.

    A prior that samples its scale (`priors.layer_scale`) is read at the scale in ``weights``: what
    is built on it is conditional on that scale.

    Raises:
        ValueError: for a prior that is not an independent zero-mean Normal. At zero, where pruning
            looks, a Laplace prior has no second derivative; a Student t's log density is convex in
            its tails, so that its precision is negative there.
    """
    _check_lifted(model)
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


def _check_lifted(model: Model) -> None:
    if not isinstance(model, BayesianModule):
        raise ValueError(f"curvature needs a BayesianModule, got {type(model).__name__}")
    if model.likelihood is not categorical and not isinstance(model.likelihood, gaussian):
        raise ValueError(
            f"curvature needs the likelihood categorical or gaussian(scale), got {model.likelihood}"
        )


def hessian_root(model: BayesianModule, outputs: Tensor) -> Tensor:
    """Return S (n, K, K) with S Sᵀ = H, minus the log likelihood's Hessian in the outputs.

    Gaussian: H = 1/scale². Categorical: H = diag(p) - ppᵀ = Σ_c p_c (e_c - p)(e_c - p)ᵀ, so that
    column c of S is √p_c (e_c - p). Neither depends on the targets: GGN and Fisher are the same.

    Args:
        model: its likelihood.
        outputs: outputs of the network (n, ...), K elements an example.
    """
    flat = outputs.detach().flatten(1) if outputs.dim() > 1 else outputs.detach()[:, None]
    eye = torch.eye(flat.shape[1], dtype=flat.dtype, device=flat.device)
    if isinstance(model.likelihood, gaussian):
        return (eye / model.likelihood.scale).expand(len(flat), -1, -1)
    p = flat.softmax(-1)
    return (eye - p[:, :, None]) * p.sqrt()[:, None, :]


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
    _check_lifted(model)
    x, _ = train_part(data)
    point = _parameters(model, weights)
    total = {n: torch.zeros(w.shape, dtype=torch.float64) for n, w in point.items()}
    squares = _jacobian_squares
    if has_closed_form(model, point, x):
        squares, point = _layer_squares, _held(model, weights)
    with evaluation_mode(model):
        for chunk in x.split(chunk_size):
            for name, part in squares(model, point, chunk, draws, generator).items():
                total[name] += part.cpu()
    return {n: (t * (model.num_data / len(x))).to(point[n].device) for n, t in total.items()}


def _parameters(model: BayesianModule, weights: Mapping[str, Tensor]) -> Weights:
    """The weights that are parameters of the network (others are scales of a prior)."""
    return {n: weights[n].detach().requires_grad_() for n, _ in model.net.named_parameters()}


def _held(model: BayesianModule, weights: Mapping[str, Tensor]) -> Weights:
    """The parameters at the cost of their survivors, where no gradient by them is asked for."""
    return dict(lean(model, {n: w.detach() for n, w in _parameters(model, weights).items()}))


def _roots(
    model: BayesianModule, outputs: Tensor, draws: int | None, generator: torch.Generator | None
) -> Tensor:
    root = hessian_root(model, outputs)
    if draws is None:
        return root
    signs = torch.randint(0, 2, (len(root), root.shape[2], draws), generator=generator)
    return root @ (signs * 2 - 1).to(root) / math.sqrt(draws)


class _Use(NamedTuple):
    name: str  # of the layer
    layer: nn.Module
    inputs: Tensor
    outputs: Tensor


def _run(model: BayesianModule, point: Weights, x: Tensor) -> tuple[Tensor, list[_Use]]:
    """Return the outputs, and what went into and came out of each layer that has parameters."""
    uses: list[_Use] = []

    def hook(name: str, layer: nn.Module) -> torch.utils.hooks.RemovableHandle:
        return layer.register_forward_hook(
            lambda layer, args, out: uses.append(_Use(name, layer, args[0].detach(), out))
        )

    owners = [(n, m) for n, m in model.net.named_modules() if list(m.parameters(recurse=False))]
    hooks = [hook(name, layer) for name, layer in owners]
    try:
        return model.outputs(point, x), uses
    finally:
        for handle in hooks:
            handle.remove()


def has_closed_form(model: BayesianModule, weights: Mapping[str, Tensor], x: Tensor) -> bool:
    """Say whether each parameter belongs to one Linear or plain Conv2d layer that is used once."""
    with evaluation_mode(model), torch.no_grad():
        _, uses = _run(model, {n: weights[n] for n, _ in model.net.named_parameters()}, x[:1])
    owned = [f"{u.name}.{p}".lstrip(".") for u in uses for p, _ in u.layer.named_parameters()]
    every = [n for n, _ in model.net.named_parameters(remove_duplicate=False)]
    unique = {n for n, _ in model.net.named_parameters()}
    return sorted(owned) == sorted(every) == sorted(unique) and all(_plain(u.layer) for u in uses)


def _plain(layer: nn.Module) -> bool:
    if type(layer) is nn.Conv2d:
        zeros = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        return zeros and layer.groups == 1
    return type(layer) is nn.Linear


def _layer_squares(
    model: BayesianModule,
    point: Weights,
    x: Tensor,
    draws: int | None,
    generator: torch.Generator | None,
) -> Weights:
    """Σ_n Σ_c (J_nᵀ s_nc)² for Linear and Conv2d layers.

    For example n and column c the gradient of a layer's weights is Σ_t b_t a_tᵀ over positions t, a
    the layer's inputs and b the gradient of its outputs. With one position (a Linear layer on
    vectors) its square is b² (a²)ᵀ, and the sum over c concerns b alone: one product for all
    classes.
    """
    outputs, uses = _run(model, point, x.detach().requires_grad_())
    roots = _roots(model, outputs, draws, generator)
    found = {n: torch.zeros_like(w) for n, w in point.items()}
    vectors = {u.name: torch.zeros_like(u.outputs) for u in uses if u.outputs.dim() == 2}
    for c in range(roots.shape[2]):
        column = roots[:, :, c].view_as(outputs)
        grads = torch.autograd.grad(outputs, [u.outputs for u in uses], column, retain_graph=True)
        for use, grad in zip(uses, grads, strict=True):
            if use.name in vectors:
                vectors[use.name].addcmul_(grad, grad)
            else:
                _add_squares(found, use, grad)
    for use in uses:
        if use.name in vectors:
            _add(found, use, "weight", vectors[use.name].T @ use.inputs.square())
            _add(found, use, "bias", vectors[use.name].sum(0))
    return {n: f.detach() for n, f in found.items()}


def _add(found: Weights, use: _Use, part: str, value: Tensor) -> None:
    name = f"{use.name}.{part}".lstrip(".")
    if name in found:
        found[name] = found[name].detach() + value.reshape(found[name].shape)


def _add_squares(found: Weights, use: _Use, grad: Tensor) -> None:
    """Add the squares of the gradients of a layer that is used at many positions."""
    a, b = _positions(use, grad)
    _add(found, use, "weight", (b @ a.mT).square().sum(0))
    _add(found, use, "bias", b.sum(2).square().sum(0))


def _positions(use: _Use, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs (n, fan in, t) of a layer at its t positions, and their gradients (n, outputs, t)."""
    if isinstance(use.layer, nn.Conv2d):
        c = use.layer
        size = [cast(tuple[int, int], v) for v in (c.kernel_size, c.dilation, c.padding, c.stride)]
        return nn.functional.unfold(use.inputs, *size), grad.flatten(2)
    if use.inputs.dim() == 2:
        return use.inputs[:, :, None], grad[:, :, None]
    return use.inputs.flatten(1, -2).mT, grad.flatten(1, -2).mT


def jacobian_products(
    model: BayesianModule,
    weights: Mapping[str, Tensor],
    x: Tensor,
    index: Mapping[str, Tensor],
    changes: Mapping[str, Tensor],
) -> tuple[Tensor, Tensor]:
    """Return the outputs f(x) (n, K), and J(x) v for many changes v of few weights (S, n, K).

    K backward passes whatever S, and products with the Jacobian's columns of those few weights.
    For networks with `has_closed_form`.

    Args:
        model: the lifted network.
        weights: the point at which it is linearised.
        x: inputs (n, ...), all in memory at a time.
        index: positions of the changed weights in each flattened parameter.
        changes: rows of changes of them (S, len(index)), by parameter.
    """
    with evaluation_mode(model):
        outputs, uses = _run(model, _held(model, weights), x.detach().requires_grad_())
    layers = [use.outputs for use in uses]
    grads = [torch.autograd.grad(o.sum(), layers, retain_graph=True) for o in outputs.unbind(1)]
    rows = len(next(iter(changes.values())))
    total = outputs.new_zeros(outputs.shape[1], rows, len(x))
    for use, by_output in zip(uses, zip(*grads, strict=True), strict=True):
        for part in ("weight", "bias"):
            name = f"{use.name}.{part}".lstrip(".")
            if name in index:
                _add_products(total, use, part, by_output, index[name], changes[name])
    return outputs.detach(), total.permute(1, 2, 0)


def _add_products(
    total: Tensor,
    use: _Use,
    part: str,
    grads: Sequence[Tensor],
    index: Tensor,
    changes: Tensor,
) -> None:
    """Add one parameter's share of J v to ``total`` (K, S, n); ``grads``: K of (n, ...)."""
    if part == "weight" and use.outputs.dim() == 2:
        _add_vector_products(total, use, grads, index, changes)
        return
    for found, grad in zip(total, grads, strict=True):
        a, b = _positions(use, grad)
        columns = b.sum(2) if part == "bias" else (b @ a.mT).flatten(1)
        found.addmm_(changes, columns.mT[index])


def _add_vector_products(
    total: Tensor, use: _Use, grads: Sequence[Tensor], index: Tensor, changes: Tensor
) -> None:
    """The same for a Linear layer on vectors, whose columns are b_i a_j: in blocks, in a cache."""
    a, by_output = use.inputs.mT.contiguous(), [grad.mT.contiguous() for grad in grads]
    blocks = zip(index.split(BLOCK), changes.split(BLOCK, 1), strict=True)
    for i, some in blocks:
        inputs = a[i % len(a)]
        for found, b in zip(total, by_output, strict=True):
            found.addmm_(some, b[i // len(a)].mul_(inputs))


class Kron(NamedTuple):
    """A block B ⊗ A of the GGN, of a parameter of shape (outputs, fan in); a bias has A = 1."""

    inputs: Tensor  # A (fan in, fan in): mean of aaᵀ over examples and positions
    outputs: Tensor  # B (outputs, outputs): sum of bbᵀ over examples, positions and columns


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
    _check_lifted(model)
    x, _ = train_part(data)
    point = _parameters(model, weights)
    if not has_closed_form(model, weights, x):
        raise ValueError(
            "Kronecker factors need a network whose parameters all belong to Linear or plain "
            "Conv2d layers, each used once"
        )
    found: dict[str, Kron] = {}
    with evaluation_mode(model):
        for chunk in x.split(chunk_size):
            for name, part in _layer_factors(model, point, chunk).items():
                total = found.get(name, Kron(*map(torch.zeros_like, part)))
                found[name] = Kron(total.inputs + part.inputs, total.outputs + part.outputs)
    scale = model.num_data / len(x)
    return {n: Kron(k.inputs / len(x), k.outputs * scale) for n, k in found.items()}


def _layer_factors(model: BayesianModule, point: Weights, x: Tensor) -> dict[str, Kron]:
    """Sums over a chunk's examples: of the mean of aaᵀ over positions, and of bbᵀ."""
    outputs, uses = _run(model, point, x)
    roots = hessian_root(model, outputs)
    found: dict[str, Kron] = {}
    for c in range(roots.shape[2]):
        column = roots[:, :, c].view_as(outputs)
        grads = torch.autograd.grad(outputs, [u.outputs for u in uses], column, retain_graph=True)
        for use, grad in zip(uses, grads, strict=True):
            a, b = (part.transpose(0, 1).flatten(1) for part in _positions(use, grad))
            one = torch.full((1, 1), float(len(x)), dtype=a.dtype, device=a.device)
            squares = (b @ b.T).detach()
            for part in ("weight", "bias"):
                name = f"{use.name}.{part}".lstrip(".")
                if name not in point:
                    continue
                if name not in found:
                    mean = a @ a.T * (len(x) / a.shape[1]) if part == "weight" else one
                    found[name] = Kron(mean, torch.zeros_like(squares))
                found[name].outputs.add_(squares)
    return found


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
            roots = _roots(model, model.outputs(point, part), draws, generator)
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
    _check_lifted(model)
    x, _ = train_part(data)
    point = _parameters(model, weights)
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
    point = _parameters(model, weights)
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
