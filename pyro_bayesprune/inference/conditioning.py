"""Conditioning: the mean of the surviving weights given that the pruned weights are zero.

Around weights w at a mode, the posterior of a layer is approximated by a Gaussian whose rows are
independent, with the precisions P_o of `rows`. Given zeros outside its mask K, row o has the mean

    (P_o)_KK w'_K = (P_o w_o)_K = (c_o A w_o + δ_o w_o)_K.

This is the Optimal Brain Surgeon update (Hassibi & Stork, 1993) read as Bayesian conditioning.
Conditioning twice equals conditioning once on all zeros. Two passes are made:

1. A and c are estimated at w, for all layers independently.
2. c is estimated again at the result. The layers then follow in order: A = E[x̂x̂ᵀ] is the second
   moment of the layer's inputs x̂ in the pruned network, and A w_o on the right is replaced by
   E[x̂xᵀ] w_o, with x the inputs in the unpruned network. Each layer thereby makes up for what the
   layers before it lost.

A layer without such factors (see `blocks`) is projected: its survivors stay as they are. A layer of
at most `blocks.MAX_EXACT` weights with an exact block is conditioned in the first pass only. The
step moves weights only; BatchNorm statistics and the moments of an optimiser stay as they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_bayesprune.data.dataset import Pair
from pyro_bayesprune.data.inputs import Inputs, examples, num_examples, split
from pyro_bayesprune.inference.blocks import Block, has_block, kept_weights, layer_blocks
from pyro_bayesprune.inference.curvature import CHUNK, has_known_likelihood, prior_precision
from pyro_bayesprune.inference.jacobians import lean_parameters
from pyro_bayesprune.inference.layers import inputs_with_bias, record_layers
from pyro_bayesprune.inference.rows import Rows
from pyro_bayesprune.models.module import BayesianModule, Masks, Model, Weights, evaluation_mode
from pyro_bayesprune.models.priors import elementwise

DAMPING = 1e-8  # relative to a row's mean curvature, where the prior has none
NEAR_MODE = 1e-6  # weights nearer to the mode of their prior count as this far from it


@dataclass(frozen=True)
class Conditioning:
    """The Gaussian approximation around some weights, and what follows from it for any masks.

    Args:
        model: the Pyro model.
        weights: the weights before pruning, best at a mode.
        sample: inputs and targets of some training examples, from which A and c are estimated.
        sites: names of the sites that may be pruned.
        temperature: divides the log likelihood.
    """

    model: Model
    weights: Weights
    sample: Pair
    sites: tuple[str, ...]
    temperature: float = 1.0

    @property
    def _network(self) -> BayesianModule:
        """The model, where a layer is conditioned; other models have no blocks."""
        return cast(BayesianModule, self.model)

    @cached_property
    def conditioned(self) -> tuple[str, ...]:
        """Sites whose layers have a block; the others are projected."""
        model = self.model
        if not (isinstance(model, BayesianModule) and has_known_likelihood(model)):
            return ()
        if not all(_has_mode(prior) for prior in model.priors_at(self.weights).values()):
            return ()
        return tuple(n for n in self.sites if has_block(model, self.weights, self.sample[0], n))

    @cached_property
    def blocks(self) -> list[Block]:
        """The blocks at the weights before pruning."""
        return self._blocks_at(self.weights)

    def _blocks_at(self, weights: Weights) -> list[Block]:
        if not self.conditioned:
            return []
        return layer_blocks(
            self._network, weights, self.sample, self.conditioned, temperature=self.temperature
        )

    @property
    def projected(self) -> tuple[str, ...]:
        """Sites that no pass conditions."""
        return tuple(n for n in self.sites if n not in self.conditioned)

    def points(self, masks: Masks) -> list[Weights]:
        """Return the weights after the first and after the second pass; none without any block."""
        if not self.conditioned:
            return []
        first = self._first_pass(masks)
        if all(block.inputs is None for block in self.blocks):
            return [first]
        return [first, self._second_pass(first, masks)]

    def _first_pass(self, masks: Masks) -> Weights:
        moved = {n: w.masked_fill(~masks[n], 0) if n in masks else w
                 for n, w in self.weights.items()}  # fmt: skip
        for block in self.blocks:
            dense, keep = joined(block, self.weights), self._keep(block, masks)
            rows = self._rows(block)
            moved |= _separated(block, rows.solve(keep, rows.multiply(dense), dense), moved)
        return moved

    def _second_pass(self, first: Weights, masks: Masks) -> Weights:
        moved = dict(first)
        factored = {b.names[0]: b for b in self._blocks_at(first) if b.inputs is not None}
        for name in self.layer_order():
            block, dense = factored[name], joined(factored[name], self.weights)
            inputs, cross = self.input_moments(name, moved)
            rows = self._rows(block)._replace(inputs=inputs)
            right = rows.scale[:, None] * (dense @ cross.T) + rows.delta * dense
            solution = rows.solve(self._keep(block, masks), right, joined(block, moved))
            moved |= _separated(block, solution, moved)
        return moved

    def _rows(self, block: Block) -> Rows:
        if block.inputs is None:
            inputs = block.outputs.double()
            scale = inputs.new_ones(1)
        else:
            inputs, scale = block.inputs.double(), block.outputs.diagonal().double().clamp(min=0)
        delta = joined(block, {n: self._prior_curvature[n] for n in block.names})
        curvature = scale * inputs.diagonal().mean()
        least = torch.where(curvature > 0, DAMPING * curvature, 1.0)[:, None]
        return Rows(inputs, scale, torch.where(delta > 0, delta, least))

    @cached_property
    def _prior_curvature(self) -> Weights:
        return prior_curvature(self._network, self.weights)

    def _keep(self, block: Block, masks: Masks) -> Tensor:
        return joined(block, kept_weights(self._network, masks)).bool()

    def layer_order(self) -> list[str]:
        """Return the names of the weights of layers with factors, in the order of their use."""
        model = self._network
        with evaluation_mode(model), torch.no_grad():
            inputs = examples(self.sample[0], slice(1))
            _, calls = record_layers(model, lean_parameters(model, self.weights), inputs)
        factored = {block.names[0] for block in self.blocks if block.inputs is not None}
        return [call.weight for call in calls if call.weight in factored]

    def input_moments(self, name: str, pruned: Weights) -> tuple[Tensor, Tensor]:
        """Return E[x̂x̂ᵀ] and E[x̂xᵀ] over the examples and positions of one layer."""
        moments = torch.zeros((), dtype=torch.float64, device=self.sample[1].device)
        for chunk in split(self.sample[0], CHUNK):
            dense = self._layer_inputs(name, self.weights, chunk)
            sparse = self._layer_inputs(name, pruned, chunk)
            part = torch.stack([sparse @ sparse.T, sparse @ dense.T]).double() / dense.shape[1]
            moments = moments + part * (num_examples(chunk) / len(self.sample[1]))
        return moments[0], moments[1]

    def _layer_inputs(self, name: str, weights: Weights, x: Inputs) -> Tensor:
        """Return the inputs of one layer, see `inputs_with_bias`."""
        model = self._network
        with evaluation_mode(model), torch.no_grad():
            _, calls = record_layers(model, lean_parameters(model, weights), x)
        return inputs_with_bias(next(call for call in calls if call.weight == name))

    def occam_gain(self, before: Masks, after: Masks) -> float:
        """Return what the log Occam factor gains by pruning from one set of masks to another, nats.

        With P_o at the weights before pruning, K the surviving weights and Q those removed,

            ½ Σ_o (ln|P_o| - ln|(P_o)_KK| - Σ_Q ln δ_o) ≥ 0.

        Exact for independent rows. Correlations between rows and between layers are ignored; that
        may err in either direction. NaN where a layer that is pruned has no block.

        Raises:
            ValueError: for a prior that is not an independent zero-mean Normal.
        """
        prior_precision(self._network, self.weights)
        changed = {n for n in after if not torch.equal(before[n], after[n])}
        if not changed <= set(self.conditioned):
            return float("nan")
        total = 0.0
        for block in self.blocks:
            rows, keep = self._rows(block), self._keep(block, after)
            dense = self._keep(block, before)
            removed = rows.delta[dense & ~keep].log().sum().item()
            total += (rows.log_determinant(dense) - rows.log_determinant(keep) - removed) / 2
        return total


def joined(block: Block, values: Mapping[str, Tensor]) -> Tensor:
    """Return the values of a block's parameters as rows (n, k), float64; one row if exact."""
    rows = block.joined({n: values[n].detach().double() for n in block.names})
    return rows if rows.dim() == 2 else rows[None]


def _separated(block: Block, rows: Tensor, like: Weights) -> Weights:
    parts = block.separated(rows[0] if block.inputs is None else rows, like)
    return {n: part.to(like[n]) for n, part in parts.items()}


def _has_mode(prior: dist.TorchDistribution) -> bool:
    try:
        return elementwise(prior).mode is not None
    except NotImplementedError:  # a mixture, for example
        return False


def prior_curvature(model: BayesianModule, weights: Mapping[str, Tensor]) -> Weights:
    """Return the precision δ of a Normal prior that has the same slope at each weight, float64.

    With m the mode of the prior p, δ = -(d/dw log p(w)) / (w - m). It is 1/σ² for a Normal prior,
    1/(b|w|) for a Laplace prior of scale b and (ν + 1)/(νs² + w²) for Student's t: the precisions
    of these priors as scale mixtures of Normals in the EM algorithm (Dempster et al., 1980).
    """
    curvatures = {}
    for name, prior in model.priors_at(weights).items():
        base, point = elementwise(prior), weights[name].detach()
        if type(base) is dist.Normal:
            curvatures[name] = base.scale.detach().double().pow(-2).expand(prior.event_shape)
            continue
        offset = point - base.mode
        offset = torch.where(offset < 0, -1.0, 1.0) * offset.abs().clamp(min=NEAR_MODE)
        with torch.enable_grad():
            moved = (base.mode + offset).detach().requires_grad_()
            (slope,) = torch.autograd.grad(base.log_prob(moved).sum(), moved)
        curvatures[name] = (-slope.double() / offset.double()).clamp(min=0)
    return curvatures
