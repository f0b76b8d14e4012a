"""Blocks of the posterior precision, one for each layer: its weights together with its bias.

Blocks of different layers are treated as independent. Within a layer the generalised Gauss-Newton
matrix (GGN) is

- Kronecker-factored for Linear and Conv layers whose gradients have the closed form (`layers`):
  B ⊗ A, where A is the second moment of the inputs with a constant one for the bias, and B is the
  Fisher information of the outputs (Martens & Grosse, 2015). Under masks, the rows of the layer
  (its units) are treated as independent too: B_oo A_KK + diag(δ) for the surviving weights K of row
  o. If at most `MAX_DENSE` weights survive, their whole matrix is used instead;
- exact for any other layer of at most `MAX_EXACT` weights, such as recurrent layers, normalisation
  gains and attention. A larger one raises an error.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from pyro_bayesprune.data.batches import Batches
from pyro_bayesprune.data.inputs import Inputs, num_examples
from pyro_bayesprune.data.loading import Data
from pyro_bayesprune.inference.curvature import (
    CHUNK,
    check_lifted,
    ggn_full,
    root_columns,
)
from pyro_bayesprune.inference.jacobians import layer_gradients
from pyro_bayesprune.inference.layers import (
    EXAMPLES,
    closed_form_layers,
    inputs_with_bias,
    output_positions,
    parameters_at,
    record_layers,
)
from pyro_bayesprune.inference.log_joint import batches_at
from pyro_bayesprune.inference.rows import Rows
from pyro_bayesprune.models.likelihoods import Likelihood
from pyro_bayesprune.models.module import BayesianModule, Masks, Weights, evaluation_mode

MAX_EXACT = 2048  # weights of an exact block: 32 MiB, and N·K·W² operations
MAX_DENSE = 4096  # surviving weights of a factored layer whose whole matrix is computed: 128 MiB


@dataclass(frozen=True)
class Block:
    """The GGN of one layer, over its weights (rows, columns) with a bias as the last column.

    Args:
        names: names of the layer's parameters; with Kronecker factors, its weight, then its bias.
        inputs: A (columns, columns), or None for an exact block.
        outputs: B (rows, rows), or the whole matrix (W, W) for an exact block.
    """

    names: tuple[str, ...]
    inputs: Tensor | None
    outputs: Tensor

    def tempered(self, temperature: float) -> "Block":
        """Return the block for a log likelihood that is divided by a temperature."""
        return replace(self, outputs=self.outputs / temperature)

    def joined(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return values by parameter as one tensor (rows, columns), or (W,) for an exact block."""
        if self.inputs is None:
            return torch.cat([values[n].flatten() for n in self.names])
        return torch.cat([values[n].flatten(1) if values[n].dim() > 1 else values[n][:, None]
                          for n in self.names], 1)  # fmt: skip

    def separated(self, joined: Tensor, like: Mapping[str, Tensor]) -> Weights:
        """Return values by parameter from a result of `joined`."""
        sizes = [like[n].numel() if self.inputs is None else like[n].numel() // len(joined)
                 for n in self.names]  # fmt: skip
        parts = joined.split(sizes, -1)
        return {n: p.reshape(like[n].shape) for n, p in zip(self.names, parts, strict=True)}

    def diagonal(self, delta: Tensor) -> Tensor:
        """Return the diagonal of P, joined; ``delta`` are the prior precisions, joined."""
        if self.inputs is None:
            return self.outputs.diagonal() + delta
        outer = torch.outer(self.outputs.diagonal().double(), self.inputs.diagonal().double())
        return outer + delta

    def variance(self, delta: Tensor, keep: Tensor) -> Tensor:
        """Return the marginal posterior variances [P_KK⁻¹]_ii of survivors; 1/δ for others.

        Args:
            delta: prior precisions, joined.
            keep: mask of the weights that are parameters, joined.
        """
        if self._has_eigenvectors(delta, keep):
            values, ins, outs = self._eigen(delta[0])
            return outs.square() @ (1 / (values + 1)) @ ins.square().T / delta
        variance = 1 / delta
        for part, factor in self._factors(delta, keep):
            variance[part] = torch.cholesky_inverse(factor).diagonal()
        return variance

    def log_occam(self, delta: Tensor, keep: Tensor) -> float:
        """Return ½ Σ_K ln δ - ½ ln|P_KK| ≤ 0, the log Occam factor of the survivors, nats."""
        if self._has_eigenvectors(delta, keep):
            return -self._eigen(delta[0])[0].log1p().sum().item() / 2
        return sum(
            (delta[part].log() / 2).sum().item() - factor.diagonal().log().sum().item()
            for part, factor in self._factors(delta, keep)
        )

    def noise(self, delta: Tensor, keep: Tensor, noise: Tensor) -> Tensor:
        """Return P_KK^(-1/2) ε for rows ε (S, survivors), in the order of `joined`."""
        if self._has_eigenvectors(delta, keep):
            values, ins, outs = self._eigen(delta[0])
            square = noise.view(-1, *values.shape) * (values + 1).rsqrt()
            return ((outs @ square @ ins.T) * delta.rsqrt()).flatten(1)
        factor = self._factor(delta, keep)
        return torch.linalg.solve_triangular(factor.mT, noise.mT, upper=True).mT

    def _has_eigenvectors(self, delta: Tensor, keep: Tensor) -> bool:
        return self.inputs is not None and bool(keep.all() and (delta == delta[0]).all())

    def _eigen(self, delta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Eigenvalues (rows, columns) of D^(-1/2) (B ⊗ A) D^(-1/2), and eigenvectors of both."""
        scale = delta.rsqrt()
        # LAPACK's float32 solver may not converge if there are many dead units.
        alpha, ins = torch.linalg.eigh(scale[:, None] * self.inputs.double() * scale)  # type: ignore[union-attr]
        beta, outs = torch.linalg.eigh(self.outputs.double())
        return torch.outer(beta.clamp(min=0), alpha.clamp(min=0)), ins, outs

    def _factor(self, delta: Tensor, keep: Tensor) -> Tensor:
        """Cholesky factor of the whole matrix P_KK."""
        if self.inputs is None:
            precision = self.outputs[keep][:, keep]
        else:
            rows, columns = keep.nonzero().unbind(1)
            precision = self.outputs.double()[rows][:, rows]
            precision *= self.inputs.double()[columns][:, columns]
        precision.diagonal().add_(delta[keep])
        return torch.linalg.cholesky(precision)

    def _factors(self, delta: Tensor, keep: Tensor) -> Iterator[tuple[Any, Tensor]]:
        """Yield indices of weights that are independent of the others, and their factors."""
        if self.inputs is None or int(keep.sum()) <= MAX_DENSE:
            yield keep, self._factor(delta, keep)
            return
        rows = Rows(self.inputs.double(), self.outputs.double().diagonal(), delta)
        for row in keep.any(1).nonzero().flatten().tolist():
            yield (row, keep[row]), rows.factor(row, keep[row])


def layer_blocks(
    model: BayesianModule,
    weights: Mapping[str, Tensor],
    data: Data,
    sites: Collection[str] | None = None,
    *,
    temperature: float = 1.0,
) -> list[Block]:
    """Return the blocks of the layers that own ``sites`` (by default of all layers).

    Args:
        model: the lifted network.
        weights: the point.
        data: n examples; sums over them are scaled by N/n.
        sites: names of parameters, by default all.
        temperature: divides the log likelihood.

    Raises:
        ValueError: for a layer without Kronecker factors and more than `MAX_EXACT` weights.
    """
    check_lifted(model)
    owners = _owners(model)
    required = set(owners) if sites is None else {name.rpartition(".")[0] for name in sites}
    batches = batches_at(data, weights)
    factored = required & closed_form_layers(model, weights, batches.first(EXAMPLES)[0])
    factors = _kronecker_factors(model, weights, batches, factored) if factored else {}
    blocks = [Block(tuple(owners[name]), *parts) for name, parts in factors.items()]
    for owner in (o for o in owners if o in required - factored):
        blocks.append(_exact_block(model, weights, batches, owners[owner]))
    return [block.tempered(temperature) for block in blocks]


def _owners(model: BayesianModule) -> dict[str, list[str]]:
    """Names of the parameters of each layer, by the layer's name."""
    owners: dict[str, list[str]] = {}
    for name in model.named_weights():
        owners.setdefault(name.rpartition(".")[0], []).append(name)
    return owners


def has_block(model: BayesianModule, weights: Mapping[str, Tensor], x: Inputs, site: str) -> bool:
    """Return whether `layer_blocks` has a block for the layer that owns a parameter."""
    owner = site.rpartition(".")[0]
    size = sum(weights[n].numel() for n in _owners(model)[owner])
    return size <= MAX_EXACT or owner in closed_form_layers(model, weights, x)


def _exact_block(
    model: BayesianModule, weights: Mapping[str, Tensor], data: Data, names: list[str]
) -> Block:
    size = sum(weights[n].numel() for n in names)
    if size > MAX_EXACT:
        raise ValueError(
            f"the posterior precision of {', '.join(names)} ({size} weights) is not available: "
            f"the layer has no Kronecker factors (it is no Linear or Conv layer that is used once) "
            f"and more than {MAX_EXACT} weights. Exclude it from pruning (sites=), or use a "
            f"criterion and a sparsity that need no marginal precisions"
        )
    precision = ggn_full(model, weights, data, names).to(weights[names[0]].device)
    return Block(tuple(names), None, precision)


def _kronecker_factors(
    model: BayesianModule, weights: Mapping[str, Tensor], data: Batches, layers: Collection[str]
) -> dict[str, tuple[Tensor, Tensor]]:
    """A, the mean of aaᵀ over the examples, and B, the sum of bbᵀ scaled to N, by layer."""
    sums: dict[str, tuple[Tensor, Tensor]] = {}
    likelihood = model.likelihood_at(weights)
    with evaluation_mode(model), torch.enable_grad():
        point = parameters_at(model, weights)
        for chunk in data.inputs(CHUNK):
            parts = _chunk_factors(model, likelihood, point, chunk, layers)
            for name, (a, b) in parts.items():
                sums[name] = (sums[name][0] + a, sums[name][1] + b) if name in sums else (a, b)
    number = data.num_data
    scale = model.num_data / number
    return {name: (a / number, b * scale) for name, (a, b) in sums.items()}


def _chunk_factors(
    model: BayesianModule,
    likelihood: Likelihood,
    point: Weights,
    x: Inputs,
    layers: Collection[str],
) -> dict[str, tuple[Tensor, Tensor]]:
    outputs, calls = record_layers(model, point, x, layers)
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    for call in calls:
        a, units = inputs_with_bias(call), len(cast(Tensor, call.layer.weight))
        factors[call.name] = a @ a.T * (num_examples(x) / a.shape[1]), a.new_zeros(units, units)
    for column in root_columns(likelihood, outputs):
        for call, grad in layer_gradients(outputs, calls, column):
            b = output_positions(call, grad).transpose(0, 1).flatten(1)
            factors[call.name][1].addmm_(b, b.T)
    return factors


def kept_weights(model: BayesianModule, masks: Mapping[str, Tensor] | None) -> Masks:
    """Return a mask for each parameter, with all weights of a parameter without a mask."""
    masks = masks or {}
    named = model.named_weights().items()
    return {n: masks.get(n, torch.ones_like(p, dtype=torch.bool)) for n, p in named}
