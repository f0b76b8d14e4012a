"""Curvature of the log joint at a point: the generalised Gauss-Newton matrix and the prior's.

Around a point θ the log joint of a network with independent priors N(0, 1/δ_i) is approximated by

    log p(D, θ + u) ≈ log p(D, θ) + gᵀu - ½ uᵀPu,    P = GGN + diag(δ),

where g is its gradient and GGN = Σ_n J_nᵀ H_n J_n is the generalised Gauss-Newton matrix of the log
likelihood. J_n is the Jacobian of the network's K outputs for example n, and H_n ≥ 0 is minus the
Hessian of its log likelihood in the outputs. This module computes the diagonal of the GGN and, for
small networks, the whole matrix; `blocks` computes its blocks by layer.
"""

from collections.abc import Iterator, Mapping

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_bayesprune.data.inputs import Inputs
from pyro_bayesprune.data.loading import Data
from pyro_bayesprune.inference.jacobians import (
    at_once,
    jacobians,
    layer_gradients,
    lean_parameters,
)
from pyro_bayesprune.inference.layers import (
    EXAMPLES,
    closed_form_layers,
    has_closed_form,
    parameters_at,
    positions,
    record_layers,
)
from pyro_bayesprune.inference.log_joint import batches_at
from pyro_bayesprune.models.likelihoods import (
    Likelihood,
    categorical,
    has_known_curvature,
    output_scale,
)
from pyro_bayesprune.models.module import BayesianModule, Model, Weights, evaluation_mode
from pyro_bayesprune.models.priors import elementwise

CHUNK = 256  # examples, whose unfolded images fit into the cache


class NoEvidence(ValueError):
    """The model, its likelihood or a prior has no known curvature and therefore no evidence."""


def check_lifted(model: Model) -> None:
    """Raise a NoEvidence unless the model is a BayesianModule with a known likelihood."""
    if not isinstance(model, BayesianModule):
        raise NoEvidence(f"curvature needs a BayesianModule, got {type(model).__name__}")
    if not has_known_likelihood(model):
        raise NoEvidence(
            f"curvature needs the likelihood categorical, bernoulli, gaussian or poisson, "
            f"got {model.likelihood}"
        )


def has_known_likelihood(model: BayesianModule) -> bool:
    """Return whether the Hessian of the log likelihood in the outputs is implemented."""
    return has_known_curvature(model.likelihood)


def prior_precision(model: BayesianModule, weights: Mapping[str, Tensor]) -> Weights:
    """Return δ = 1/σ² of each weight's prior N(0, σ²), by parameter, in float64.

    For a prior that samples its scale (`priors.layer_scale`), the result is conditional on the
    scale in ``weights``.

    Raises:
        NoEvidence: for a prior that is not an independent zero-mean Normal. A Laplace prior has no
            second derivative at zero, and a Student t has negative precision in its tails.
    """
    check_lifted(model)
    precisions = {}
    for name, prior in model.priors_at(weights).items():
        base = elementwise(prior)
        if type(base) is not dist.Normal or bool((base.loc != 0).any()):
            raise NoEvidence(
                f"an evidence needs independent zero-mean Normal priors, and the prior of {name!r} "
                f"is {type(base).__name__}"
            )
        precisions[name] = base.scale.detach().double().pow(-2).expand(prior.event_shape)
    return precisions


def root_columns(likelihood: Likelihood, outputs: Tensor) -> Iterator[Tensor]:
    """Yield the columns (n, K) of S with S Sᵀ = H, minus the log likelihood's output Hessian.

    Independent targets: H is diagonal, see `likelihoods.output_scale`. Classes: H = diag(p) - ppᵀ =
    Σ_c p_c (e_c - p)(e_c - p)ᵀ for each target, so that column c of S is √p_c (e_c - p). H does not
    depend on the targets, so that the GGN is the Fisher information. One column is in memory at a
    time, so that there may be thousands of classes.

    Args:
        likelihood: the likelihood with its noise, see `BayesianModule.likelihood_at`.
        outputs: the network's outputs (n, ...).
    """
    outputs = outputs.detach()
    flat = torch.zeros_like(outputs).reshape(len(outputs), -1)
    if likelihood is not categorical:
        scale = output_scale(likelihood, outputs.reshape(len(outputs), -1))
        for c in range(flat.shape[1]):
            column = torch.zeros_like(flat)
            column[:, c] = 1
            yield column / scale
        return
    p = outputs.softmax(-1).view(len(outputs), -1, outputs.shape[-1])
    for target in range(p.shape[1]):
        for c in range(p.shape[2]):
            column = torch.zeros_like(p)
            column[:, target, c] = 1
            column[:, target] -= p[:, target]
            yield (column * p[:, target, c, None, None].sqrt()).view(len(outputs), -1)


def ggn_diagonal(
    model: BayesianModule,
    weights: Mapping[str, Tensor],
    data: Data,
    *,
    chunk_size: int = CHUNK,
) -> Weights:
    """Return the diagonal Σ_n Σ_c (J_nᵀ s_nc)_i² of the GGN, by parameter, in float64.

    It is exact, and takes one backward pass for each of the `root_columns` s_nc. With
    `has_closed_form` the squares have a closed form. Otherwise the Jacobians of single examples are
    computed, which is for small networks only.

    Args:
        model: the lifted network, which runs in evaluation mode.
        weights: the point.
        data: n examples. Sums are scaled by N/n: a random subset gives an unbiased estimate.
        chunk_size: examples in memory at a time.
    """
    check_lifted(model)
    batches, point = batches_at(data, weights), parameters_at(model, weights)
    total = {n: torch.zeros(w.shape, dtype=torch.float64, device="cpu") for n, w in point.items()}
    squares, likelihood = _exact_squares, model.likelihood_at(weights)
    with torch.enable_grad():
        if has_closed_form(model, point, batches.first(EXAMPLES)[0]):
            squares, point = _layer_squares, lean_parameters(model, weights)
        with evaluation_mode(model):
            for chunk in batches.inputs(chunk_size):
                for name, part in squares(model, likelihood, point, chunk).items():
                    total[name] += part.cpu()
    scale = model.num_data / batches.num_data
    return {n: (t * scale).to(weights[n].device) for n, t in total.items()}


def _layer_squares(
    model: BayesianModule, likelihood: Likelihood, point: Weights, x: Inputs
) -> Weights:
    """Σ_n Σ_c (J_nᵀ s_nc)² from the inputs and the gradients of each layer.

    For a Linear layer of vectors the square of b aᵀ is b² (a²)ᵀ. Only b depends on c, so that one
    product suffices for all classes.
    """
    layers = closed_form_layers(model, point, x)
    outputs, calls = record_layers(model, point, x, layers)
    squares = {n: torch.zeros(w.shape, dtype=w.dtype, device=w.device) for n, w in point.items()}
    vectors = {c.name: torch.zeros_like(c.outputs) for c in calls if c.outputs.dim() == 2}
    for column in root_columns(likelihood, outputs):
        for call, grad in layer_gradients(outputs, calls, column):
            if call.name in vectors:
                vectors[call.name].addcmul_(grad, grad)
                continue
            a, b = positions(call, grad)
            squares[call.weight] += (b @ a.mT).square().sum(0).view_as(squares[call.weight])
            if call.bias is not None:
                squares[call.bias] += b.sum(2).square().sum(0)
    for call in (c for c in calls if c.name in vectors):
        squares[call.weight] += vectors[call.name].T @ call.inputs.square()
        if call.bias is not None:
            squares[call.bias] += vectors[call.name].sum(0)
    return squares


def _rooted(likelihood: Likelihood, outputs: Tensor, jacobian: Tensor) -> Tensor:
    """Return Sᵀ J (n, K, *shape): row c is √p_c (J_c - Σ_k p_k J_k), or √h_c J_c.

    The outputs (n, ...) have K elements, in the order of the Jacobian's rows.
    """
    ones = [1] * (jacobian.dim() - 2)
    if likelihood is not categorical:
        scale = output_scale(likelihood, outputs.reshape(len(outputs), -1))
        return jacobian / (scale.view(*scale.shape, *ones) if isinstance(scale, Tensor) else scale)
    p = outputs.softmax(-1).view(len(outputs), -1, outputs.shape[-1])
    by_class = jacobian.unflatten(1, p.shape[1:])
    mean = torch.einsum("ntk,ntk...->nt...", p, by_class)
    return ((by_class - mean[:, :, None]) * p.sqrt().view(*p.shape, *ones)).flatten(1, 2)


def _exact_squares(
    model: BayesianModule, likelihood: Likelihood, point: Weights, x: Inputs
) -> Weights:
    """Σ_n Σ_c (J_nᵀ s_nc)² for any module that treats examples independently."""
    total = {n: torch.zeros(w.shape, dtype=torch.float64, device="cpu") for n, w in point.items()}
    for outputs, by_name in jacobians(model, point, x, list(point)):
        for name, jacobian in by_name.items():
            total[name] += _rooted(likelihood, outputs, jacobian).square().sum((0, 1)).cpu()
    return total


def ggn_full(
    model: BayesianModule,
    weights: Mapping[str, Tensor],
    data: Data,
    names: list[str] | None = None,
) -> Tensor:
    """Return the exact GGN (W, W), float64, over all W weights in the order of `flat`.

    Memory grows as W² and time as N·K·W², which allows a few thousand weights.

    Args:
        model: the lifted network.
        weights: the point.
        data: n examples; sums are scaled by N/n.
        names: names of parameters, by default all.
    """
    check_lifted(model)
    batches, point = batches_at(data, weights), parameters_at(model, weights)
    names = list(point) if names is None else names
    size = sum(point[n].numel() for n in names)
    total = torch.zeros(size, size, dtype=torch.float64, device="cpu")
    likelihood = model.likelihood_at(weights)
    with evaluation_mode(model), torch.enable_grad():
        number = at_once(model, point, batches.first(1)[0], names)
        for x in batches.inputs(number):
            for outputs, by_name in jacobians(model, point, x, names):
                parts = [_rooted(likelihood, outputs, by_name[n]) for n in names]
                # a parameter may be one number, without a dimension to flatten
                parts = [part.reshape(*part.shape[:2], -1) for part in parts]
                rows = torch.cat(parts, 2).flatten(0, 1).double().cpu()
                total += rows.mT @ rows
    return total * (model.num_data / batches.num_data)


def flat(model: BayesianModule, values: Mapping[str, Tensor]) -> Tensor:
    """Return values by parameter as one float64 vector (W,), in the order of named_parameters."""
    names = list(model.named_weights())
    return torch.cat([values[n].detach().double().flatten().cpu() for n in names])
