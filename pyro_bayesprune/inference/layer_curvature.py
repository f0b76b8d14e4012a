"""Closed forms of the curvature of networks of Linear and Conv2d layers.

Forward hooks record what goes into and comes out of each layer; products of these give the
generalised Gauss-Newton matrix of its weights without a Jacobian for each example.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from pyro_bayesprune.inference.log_joint import lean
from pyro_bayesprune.models.likelihoods import categorical, gaussian
from pyro_bayesprune.models.module import BayesianModule, Model, Weights, evaluation_mode

BLOCK = 1024  # weights whose Jacobian is held at a time where it is used at once: in a cache


def check_lifted(model: Model) -> None:
    """Raise a ValueError unless the model is a BayesianModule with a known likelihood."""
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


def parameters_at(model: BayesianModule, weights: Mapping[str, Tensor]) -> Weights:
    """The weights that are parameters of the network (others are scales of a prior)."""
    return {n: weights[n].detach().requires_grad_() for n, _ in model.net.named_parameters()}


def lean_parameters(model: BayesianModule, weights: Mapping[str, Tensor]) -> Weights:
    """The parameters at the cost of their survivors, where no gradient by them is asked for."""
    return dict(lean(model, {n: w.detach() for n, w in parameters_at(model, weights).items()}))


def root_columns(
    model: BayesianModule, outputs: Tensor, draws: int | None, generator: torch.Generator | None
) -> Tensor:
    """Return the columns of `hessian_root` (n, K, K), or ``draws`` random combinations of them."""
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


def layer_squares(
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
    roots = root_columns(model, outputs, draws, generator)
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
        outputs, uses = _run(model, lean_parameters(model, weights), x.detach().requires_grad_())
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


def layer_factors(model: BayesianModule, point: Weights, x: Tensor) -> dict[str, Kron]:
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
