"""Blocks of the posterior precision, one for each layer: its weights together with its bias.

Blocks of different layers are taken as independent. Within a layer the generalised Gauss-Newton
matrix (GGN) is

- Kronecker-factored for Linear and Conv layers whose gradients have the closed form (`layers`):
  B ⊗ A, A the second moment of the inputs with a constant one for the bias, B the Fisher
  information of the outputs (Martens & Grosse, 2015). Under masks the rows of the layer (its units)
  are taken as independent as well, B_oo A_KK + diag(δ) for the kept weights K of row o, unless so
  few weights are kept that their whole matrix fits into memory;
- exact for any other layer of at most `MAX_EXACT` weights: recurrent layers, normalisation gains,
  attention. A larger one is refused.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pyro_bayesprune.data.dataset import Dataset, Pair, train_part
from pyro_bayesprune.inference.curvature import (
    CHUNK,
    check_lifted,
    ggn_full,
    root_columns,
)
from pyro_bayesprune.inference.jacobians import layer_gradients
from pyro_bayesprune.inference.layers import (
    LayerCall,
    closed_form_layers,
    parameters_at,
    positions,
    record_layers,
)
from pyro_bayesprune.models.module import BayesianModule, Masks, Weights, evaluation_mode

MAX_EXACT = 2048  # weights whose matrix is computed exactly: 32 MiB, and N·K·W² operations
MAX_DENSE = 4096  # kept weights of a factored layer whose matrix is built: 128 MiB


@dataclass(frozen=True)
class Block:
    """The GGN of one layer, over its weights (rows, columns); a bias is the last column.

    Args:
        names: parameters of the layer; for Kronecker factors its weight, then its bias.
        inputs: A (columns, columns), or None for an exact block.
        outputs: B (rows, rows); for an exact block the whole matrix (W, W).
    """

    names: tuple[str, ...]
    inputs: Tensor | None
    outputs: Tensor

    def tempered(self, temperature: float) -> "Block":
        """Return the block of a likelihood that is divided by a temperature."""
        return replace(self, outputs=self.outputs / temperature)

    def joined(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return values by parameter as one tensor: rows and columns, or a vector if exact."""
        if self.inputs is None:
            return torch.cat([values[n].flatten() for n in self.names])
        return torch.cat([values[n].flatten(1) if values[n].dim() > 1 else values[n][:, None]
                          for n in self.names], 1)  # fmt: skip

    def separated(self, joined: Tensor, like: Mapping[str, Tensor]) -> Weights:
        """Return the parameters that `joined` joined."""
        sizes = [like[n].numel() if self.inputs is None else like[n].numel() // len(joined)
                 for n in self.names]  # fmt: skip
        parts = joined.split(sizes, -1)
        return {n: p.reshape(like[n].shape) for n, p in zip(self.names, parts, strict=True)}

    def variance(self, delta: Tensor, kept: Tensor) -> Tensor:
        """Return the marginal posterior variances [P_KK⁻¹]_ii of kept weights; 1/δ for others.

        Args:
            delta: prior precisions, joined.
            kept: which weights are parameters, joined.
        """
        if self.inputs is not None and kept.all() and _same_rows(delta):
            values, ins, outs = self._eigen(delta[0])
            return outs.square() @ (1 / (values + 1)) @ ins.square().T / delta
        variance = 1 / delta
        if self.inputs is None or int(kept.sum()) <= MAX_DENSE:
            variance[kept] = torch.cholesky_inverse(self._factor(delta, kept)).diagonal()
            return variance
        for row, precision in self._rows(delta, kept):
            factor = torch.linalg.cholesky(precision)
            variance[row, kept[row]] = torch.cholesky_inverse(factor).diagonal()
        return variance

    def log_occam(self, delta: Tensor, kept: Tensor) -> float:
        """Return ½ Σ_K ln δ - ½ ln|P_KK| ≤ 0, the log Occam factor of the kept weights, nats."""
        if self.inputs is not None and kept.all() and _same_rows(delta):
            return -self._eigen(delta[0])[0].log1p().sum().item() / 2
        if self.inputs is None or int(kept.sum()) <= MAX_DENSE:
            factor = self._factor(delta, kept)
            return (delta[kept].log() / 2).sum().item() - factor.diagonal().log().sum().item()
        total = 0.0
        for row, precision in self._rows(delta, kept):
            factor = torch.linalg.cholesky(precision)
            total += (delta[row, kept[row]].log() / 2 - factor.diagonal().log()).sum().item()
        return total

    def noise(self, delta: Tensor, kept: Tensor, noise: Tensor) -> Tensor:
        """Return P_KK^(-1/2) ε for rows ε (S, kept), kept weights in the order of `joined`.

        Raises:
            ValueError: for more kept weights, with others pruned, than a matrix in memory allows.
        """
        if self.inputs is not None and kept.all() and _same_rows(delta):
            values, ins, outs = self._eigen(delta[0])
            square = noise.view(-1, *values.shape) * (values + 1).rsqrt()
            return ((outs @ square @ ins.T) * delta.rsqrt()).flatten(1)
        factor = self._factor(delta, kept)
        return torch.linalg.solve_triangular(factor.mT, noise.mT, upper=True).mT

    def _eigen(self, delta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Eigenvalues (rows, columns) of D^(-1/2) (B ⊗ A) D^(-1/2), vectors of A's and B's part."""
        scale = delta.rsqrt()
        # In float64: with many dead units LAPACK's float32 solver may fail to converge.
        alpha, ins = torch.linalg.eigh(scale[:, None] * self.inputs.double() * scale)  # type: ignore[union-attr]
        beta, outs = torch.linalg.eigh(self.outputs.double())
        return torch.outer(beta.clamp(min=0), alpha.clamp(min=0)), ins, outs

    def _factor(self, delta: Tensor, kept: Tensor) -> Tensor:
        """Cholesky factor of the whole matrix P_KK."""
        if self.inputs is None:
            precision = self.outputs[kept][:, kept]
        else:
            rows, columns = kept.nonzero().unbind(1)
            precision = self.outputs.double()[rows][:, rows]
            precision *= self.inputs.double()[columns][:, columns]
        precision.diagonal().add_(delta[kept])
        return torch.linalg.cholesky(precision)

    def _rows(self, delta: Tensor, kept: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yield each row that keeps a weight, with its precision."""
        a, fisher = self.inputs.double(), self.outputs.double().diagonal()  # type: ignore[union-attr]
        for row in kept.any(1).nonzero().flatten().tolist():
            some = kept[row]
            precision = fisher[row] * a[some][:, some]
            precision.diagonal().add_(delta[row, some])
            yield row, precision


def _same_rows(delta: Tensor) -> bool:
    return bool((delta == delta[0]).all())


def layer_blocks(
    model: BayesianModule,
    weights: Mapping[str, Tensor],
    data: Dataset | Pair,
    sites: Collection[str] | None = None,
    *,
    temperature: float = 1.0,
) -> list[Block]:
    """Return the blocks of the layers that own ``sites`` (by default of all layers).

    Args:
        model: the lifted network.
        weights: the point.
        data: n examples; sums are scaled by N/n.
        sites: names of parameters; the whole layer of each is returned.
        temperature: divides the log likelihood.

    Raises:
        ValueError: for a layer without Kronecker factors and more than `MAX_EXACT` weights.
    """
    check_lifted(model)
    owners = _owners(model)
    asked = set(owners) if sites is None else {name.rpartition(".")[0] for name in sites}
    x, _ = train_part(data)
    factored = asked & closed_form_layers(model, weights, x)
    blocks = _kron_blocks(model, weights, x, frozenset(factored)) if factored else []
    for owner in (o for o in owners if o in asked - factored):
        blocks.append(_exact_block(model, weights, data, owners[owner]))
    return [block.tempered(temperature) for block in blocks]


def _owners(model: BayesianModule) -> dict[str, list[str]]:
    """Names of the parameters of each layer, by the layer's name."""
    owners: dict[str, list[str]] = {}
    for name in model.named_weights():
        owners.setdefault(name.rpartition(".")[0], []).append(name)
    return owners


def has_block(model: BayesianModule, weights: Mapping[str, Tensor], x: Tensor, site: str) -> bool:
    """Say whether `layer_blocks` has a block of the layer that owns a parameter."""
    owner = site.rpartition(".")[0]
    size = sum(weights[n].numel() for n in _owners(model)[owner])
    return size <= MAX_EXACT or owner in closed_form_layers(model, weights, x)


def _exact_block(
    model: BayesianModule, weights: Mapping[str, Tensor], data: Dataset | Pair, names: list[str]
) -> Block:
    size = sum(weights[n].numel() for n in names)
    if size > MAX_EXACT:
        raise ValueError(
            f"the posterior precision of {', '.join(names)} ({size} weights) is not available: "
            f"the layer has no Kronecker factors (it is no Linear or Conv layer that is used once) "
            f"and more than {MAX_EXACT} weights. Leave it out of what is pruned (sites=), or use a "
            f"criterion and a sparsity that need no marginal precisions"
        )
    return Block(tuple(names), None, ggn_full(model, weights, data, names))


def _kron_blocks(
    model: BayesianModule, weights: Mapping[str, Tensor], x: Tensor, layers: frozenset[str]
) -> list[Block]:
    """Sums over all examples: A the mean of aaᵀ over examples, B the sum of bbᵀ."""
    total: dict[str, Block] = {}
    with evaluation_mode(model), torch.enable_grad():
        point = parameters_at(model, weights)
        for chunk in x.detach().split(CHUNK):
            for name, part in _chunk_blocks(model, point, chunk, layers).items():
                total[name] = _sum(total[name], part) if name in total else part
    scale = model.num_data / len(x)
    return [replace(b, inputs=_kron(b) / len(x), outputs=b.outputs * scale) for b in total.values()]


def _kron(block: Block) -> Tensor:
    """A of a block that has Kronecker factors."""
    assert block.inputs is not None
    return block.inputs


def _sum(one: Block, other: Block) -> Block:
    inputs = _kron(one) + _kron(other)
    return replace(one, inputs=inputs, outputs=one.outputs + other.outputs)


def _chunk_blocks(
    model: BayesianModule, point: Weights, x: Tensor, layers: frozenset[str]
) -> dict[str, Block]:
    outputs, calls = record_layers(model, point, x, layers)
    blocks: dict[str, Block] = {}
    for column in root_columns(model, outputs):
        for call, grad in layer_gradients(outputs, calls, column):
            a, b = (part.transpose(0, 1).flatten(1) for part in positions(call, grad))
            if call.name not in blocks:
                blocks[call.name] = _first_block(call, a, len(x), len(b))
            blocks[call.name].outputs.addmm_(b, b.T)
    return blocks


def _first_block(call: LayerCall, a: Tensor, examples: int, rows: int) -> Block:
    """A layer's A, summed over examples, and a B of zeros."""
    names: tuple[str, ...] = (call.weight,)
    if call.bias is not None:
        a = torch.cat([a, torch.ones_like(a[:1])])
        names = (call.weight, call.bias)
    return Block(names, a @ a.T * (examples / a.shape[1]), a.new_zeros(rows, rows))


def kept_weights(model: BayesianModule, masks: Mapping[str, Tensor] | None) -> Masks:
    """Return a bool tensor for each parameter, True for the weights of the pruned network."""
    masks = masks or {}
    named = model.named_weights().items()
    return {n: masks.get(n, torch.ones_like(p, dtype=torch.bool)) for n, p in named}
