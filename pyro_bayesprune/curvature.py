"""Curvature of the log joint at a point, and Laplace's evidence with its Occam factor.

Around a point θ the log joint of a network with independent priors N(0, 1/δ_i) is approximated by

    log p(D, θ + u) ≈ log p(D, θ) + gᵀu - ½ uᵀPu,    P = GGN + diag(δ),

with g its gradient and GGN = Σ_n J_nᵀ H_n J_n the generalised Gauss-Newton matrix of the log
likelihood: J_n the Jacobian of the network's outputs (K of them) for example n, H_n ≥ 0 minus the
Hessian of its log likelihood in the outputs. Integrating over u gives the log evidence,

    log p(D) ≈ log p(D|θ) - ½ θᵀdiag(δ)θ + ½ Σ ln δ_i - ½ ln|P| + ½ gᵀP⁻¹g,

(MacKay, 1992; Immer et al., 2021). Exact at any θ for a network that is linear in its weights,
under a gaussian likelihood, with the full matrix; else an approximation. The last term vanishes at
a mode.

A pruned weight is no parameter of the pruned network: the sums run over the kept weights and P
keeps their rows and columns. The parts are pure numbers, whatever the units of the weights: the
prior's normalisation and the posterior's volume only ever meet in the ratio δ_i / P_ii.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.func import jacrev, vmap

from pyro_bayesprune.data import Dataset, Pair, train_part
from pyro_bayesprune.metrics import check_finite
from pyro_bayesprune.model import (
    BayesianModule,
    Model,
    Weights,
    categorical,
    evaluation_mode,
    gaussian,
)
from pyro_bayesprune.posterior import BayesFactor, lean, log_joint
from pyro_bayesprune.priors import elementwise

Structure = Literal["diagonal", "full", "kron"]
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


def kept(model: BayesianModule, masks: Mapping[str, Tensor] | None) -> Tensor:
    """Return the masks of all parameters as one bool vector (W,); those without one are kept."""
    masks = masks or {}
    named = dict(model.net.named_parameters())
    every = {n: masks.get(n, torch.ones_like(p, dtype=torch.bool)) for n, p in named.items()}
    return flat(model, every).bool()


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


@dataclass(frozen=True)
class Evidence:
    """Laplace's log p(D) in nats, as its parts; see the module for the formula.

    Args:
        log_likelihood: log p(D|θ) at the point.
        log_prior: -½ θᵀdiag(δ)θ, the log prior density relative to its value at zero.
        log_occam: ½ Σ ln δ - ½ ln|P| ≤ 0, the log Occam factor: the share of the prior's volume
            that the posterior fills.
        log_shift: ½ gᵀP⁻¹g, what lies between the point and the mode of the quadratic.
        gradient_norm: ‖g‖ over the kept weights; zero at a mode.
    """

    log_likelihood: float
    log_prior: float
    log_occam: float
    log_shift: float
    gradient_norm: float

    @property
    def log(self) -> float:
        """Log evidence: the sum of the parts, nats."""
        return self.log_likelihood + self.log_prior + self.log_occam + self.log_shift


def log_evidence(
    model: BayesianModule,
    weights: Mapping[str, Tensor],
    data: Dataset | Pair,
    masks: Mapping[str, Tensor] | None = None,
    structure: Structure = "diagonal",
    *,
    shift: bool = True,
) -> Evidence:
    """Return Laplace's approximation of log p(D) at a point, in nats.

    Args:
        model: a lifted network with independent zero-mean Normal priors.
        weights: the point, best a mode; pruned weights are taken as zero.
        data: all N training examples.
        masks: weights that are False are no parameters of the network.
        structure: ``"diagonal"`` ignores the posterior's correlations and so overstates ½ ln|P|
            (Hadamard): a lower bound of the full one's evidence at a mode. ``"full"`` has them;
            small networks only. ``"kron"``: Kronecker factors, for Linear and Conv2d layers, no
            masks, and one σ for each parameter.
        shift: include ½ gᵀP⁻¹g. Exact with the full matrix where the log joint is quadratic; the
            diagonal may overstate it, so leave it out where weights are correlated and ‖g‖ large.
            ``"kron"`` has none.

    Raises:
        ValueError: for other priors or likelihoods, and where ``"kron"`` does not apply.
    """
    alive = kept(model, masks)
    point = {n: w * masks[n] if masks and n in masks else w for n, w in weights.items()}
    delta = flat(model, prior_precision(model, point))[alive]
    theta = flat(model, point)[alive]
    g = flat(model, gradient(model, point, data))[alive]
    moved = torch.zeros_like(g)
    if structure == "kron":
        if not alive.all():
            raise ValueError("structure='kron' has no masks: Kronecker factors cannot drop weights")
        log_occam = _kron_log_occam(model, point, data)
    elif structure == "full":
        factor = torch.linalg.cholesky(ggn_full(model, point, data)[alive][:, alive] + delta.diag())
        log_occam = (delta.log() / 2 - factor.diagonal().log()).sum().item()
        moved = torch.cholesky_solve(g[:, None], factor)[:, 0]
    else:
        precision = flat(model, ggn_diagonal(model, point, data))[alive] + delta
        log_occam, moved = (delta / precision).log().sum().item() / 2, g / precision
    return Evidence(
        log_likelihood=log_joint(model, point, data).log_likelihood,
        log_prior=-(delta * theta.square()).sum().item() / 2,
        log_occam=log_occam,
        log_shift=(g @ moved).item() / 2 if shift else 0.0,
        gradient_norm=g.norm().item(),
    )


def _kron_log_occam(
    model: BayesianModule, point: Mapping[str, Tensor], data: Dataset | Pair
) -> float:
    """-½ Σ ln(1 + λ/δ) over the eigenvalues λ of the blocks B ⊗ A: products of A's and B's."""
    delta = _precision_by_parameter(model, point)
    total = 0.0
    for name, (inputs, outputs) in ggn_kron(model, point, data).items():
        values = torch.outer(*(torch.linalg.eigvalsh(f.double()) for f in (outputs, inputs)))
        total -= torch.log1p(values.clamp(min=0) / delta[name]).sum().item() / 2
    return total


def _precision_by_parameter(
    model: BayesianModule, weights: Mapping[str, Tensor]
) -> dict[str, float]:
    found = {n: d.unique() for n, d in prior_precision(model, weights).items()}
    for name, values in found.items():
        if len(values) > 1:
            raise ValueError(f"Kronecker factors need one σ for all weights of {name!r}")
    return {n: values.item() for n, values in found.items()}


def marginal_precision(
    model: BayesianModule,
    weights: Mapping[str, Tensor],
    data: Dataset | Pair,
    *,
    temperature: float = 1.0,
) -> Weights:
    """Return an estimate of Λ_i = 1/[P⁻¹]_ii, the marginal posterior precisions, by parameter.

    What the data say of a weight when the others may adjust: δ_i ≤ Λ_i ≤ P_ii. Of P's Kronecker
    factors, with B = U diag(β) Uᵀ and A = V diag(α) Vᵀ,

        1/Λ_oi = Σ_kl U_ok² V_il² / (β_k α_l + δ).

    Exact where they are. Networks without Kronecker factors get P_ii, which is exact for a diagonal
    P only. Why it matters: for a network of 932,362 weights after three epochs on MNIST,
    Σ ½ ln(Λ_i/δ) was 12,000 nats and Σ ½ ln(P_ii/δ), which counts what correlated weights share
    once for each of them, 43,000.

    Args:
        model: the lifted network.
        weights: the point.
        data: all training examples or a random sample of them.
        temperature: divides the log likelihood.
    """
    x, _ = train_part(data)
    if not has_closed_form(model, weights, x):
        delta = prior_precision(model, weights)
        ggn = ggn_diagonal(model, weights, data)
        return {n: ggn[n] / temperature + delta[n] for n in ggn}
    precision = _precision_by_parameter(model, weights)
    found = {}
    for name, (inputs, outputs) in ggn_kron(model, weights, data).items():
        # In float64: with many dead units LAPACK's float32 solver may fail to converge.
        alpha, v = torch.linalg.eigh(inputs.double())
        beta, u = torch.linalg.eigh(outputs.double() / temperature)
        inverse = 1 / (torch.outer(beta.clamp(min=0), alpha.clamp(min=0)) + precision[name])
        variance = (u.square() @ inverse @ v.square().T).view(weights[name].shape)
        found[name] = variance.reciprocal()
    return found


def occam_gains(
    model: BayesianModule,
    weights: Mapping[str, Tensor],
    data: Dataset | Pair,
    *,
    temperature: float = 1.0,
) -> Weights:
    """Return ½ ln(Λ_i/δ_i) ≥ 0: what the log Occam factor gains by removing a weight; nats.

    The Savage-Dickey log Bayes factor of a group G holds ½ ln|Λ_G| - ½ Σ ln δ_i with
    Λ_G = (Σ_GG)⁻¹. By Hadamard's inequality ``|Σ_GG| ≤ Π Σ_ii``, so that the sum of these single
    gains over G is a lower bound of the group's gain: a sum may be compared with a threshold. (With
    P_ii in the place of Λ_i it would be an upper bound.)
    """
    precision = marginal_precision(model, weights, data, temperature=temperature)
    delta = prior_precision(model, weights)
    for name, values in precision.items():
        check_finite(f"posterior precisions of {name!r}", values)  # NaN would refuse, silently
    return {n: (precision[n] / delta[n]).log() / 2 for n in precision}


def evidence_scales(
    model: BayesianModule,
    weights: Mapping[str, Tensor],
    data: Dataset | Pair,
    masks: Mapping[str, Tensor] | None = None,
    *,
    temperature: float = 1.0,
) -> dict[str, Tensor]:
    """Return each parameter's σ after one step towards the largest Laplace evidence, by parameter.

    The evidence as a function of δ = 1/σ², of n kept weights θ at a mode, is largest where its
    derivative n/2δ - ½ tr P⁻¹ - ½ ‖θ‖² vanishes, hence the fixed point (MacKay, 1992)

        σ² = ‖θ‖² / γ,    γ = n - δ tr P⁻¹ = Σ (1 - δ/Λ_i),

    γ the number of weights that the data determine, Λ_i by `marginal_precision`. Its fixed points
    are exact where the Kronecker factors are, for a linear model. A parameter that the data say
    nothing of (γ = 0) or that is zero keeps its σ.

    Args:
        model: a lifted network whose priors are zero-mean Normal, one σ for each parameter.
        weights: a mode.
        data: all training examples or a random sample of them.
        masks: pruned weights do not count.
        temperature: divides the log likelihood.
    """
    precision = marginal_precision(model, weights, data, temperature=temperature)
    delta, found = prior_precision(model, weights), {}
    for name, values in precision.items():
        keep = masks[name] if masks and name in masks else torch.ones_like(values, dtype=torch.bool)
        determined = (1 - delta[name] / values)[keep].sum()
        squares = weights[name].detach().double()[keep].square().sum()
        fine = determined > 0 and squares > 0
        variance = squares / determined if fine else 1 / delta[name].flatten()[0]
        found[name] = variance.sqrt()
    return found


def laplace_bayes_factor(pruned: Evidence, unpruned: Evidence, num_data: int) -> BayesFactor:
    """Return the log Bayes factor of kind ``laplace``, pruned over unpruned, from two evidences.

    A ratio of (approximate) marginal likelihoods. Right after zeroing, the pruned network is not at
    a mode: re-optimise it first, or leave its ``log_shift`` in, and look at ``gradient_norm``. The
    shifts count with the log likelihoods: they stand for what is still to be won there.
    """
    return BayesFactor(
        pruned.log_likelihood + pruned.log_shift - unpruned.log_likelihood - unpruned.log_shift,
        pruned.log_prior - unpruned.log_prior,
        num_data,
        kind="laplace",
        log_occam_ratio=pruned.log_occam - unpruned.log_occam,
    )


def savage_dickey(theta: Tensor, precision: Tensor, delta: Tensor) -> Tensor:
    """Return log Bayes factors in favour of removing each weight alone, nats, elementwise.

    The network without weight i is nested in the one with it at θ_i = 0, and the priors of the
    others agree, so the ratio of their marginal likelihoods is that of posterior to prior density
    at zero (Dickey, 1971). With a Gaussian marginal posterior N(θ_i, 1/Λ_i) and prior N(0, 1/δ_i):

        log BF_i = ln N(0; θ_i, 1/Λ_i) - ln N(0; 0, 1/δ_i) = ½ ln(Λ_i / δ_i) - ½ Λ_i θ_i².

    Exact where the posterior is Gaussian. The factors of several weights do not add up, unless the
    posterior's precision is diagonal; see `savage_dickey_group`.

    Args:
        theta: posterior means.
        precision: *marginal* posterior precisions Λ_i = 1/[P⁻¹]_ii (P_ii only where P is diagonal).
        delta: prior precisions.
    """
    return (precision / delta).log() / 2 - precision * theta.square() / 2


def savage_dickey_group(theta: Tensor, covariance: Tensor, delta: Tensor) -> float:
    """Return the log Bayes factor in favour of removing a group of m weights together, nats.

    As `savage_dickey`, with the group's marginal posterior N(θ, Σ), Λ = Σ⁻¹:

        ½ ln|Λ| - ½ Σ ln δ_i - ½ θᵀΛθ.

    Args:
        theta: posterior means (m,).
        covariance: the group's block of the posterior covariance P⁻¹ (m, m).
        delta: prior precisions (m,).
    """
    factor = torch.linalg.cholesky(covariance)
    white = torch.linalg.solve_triangular(factor, theta[:, None], upper=False)
    log_det = -2 * factor.diagonal().log().sum()
    return ((log_det - delta.log().sum() - white.square().sum()) / 2).item()
