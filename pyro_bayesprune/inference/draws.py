"""Draws of the surviving weights: one vector (d,) for each draw.

The vector is scattered into the sites. A pruned weight is zero in every draw. `samplers` makes the
draws.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from pyro_bayesprune.models.module import BayesianModule, Weights

Method = Literal["laplace", "last_layer_laplace", "last_layer_nuts", "nuts"]
CACHE_ELEMENTS = (
    2**18
)  # of scattered draws whose prior is evaluated together, which fit into a cache


@dataclass(frozen=True)
class Draws:
    """Draws of the surviving weights.

    Args:
        method: the sampling method.
        model: the lifted network.
        weights: the point θ around which they were drawn, with the values that are not drawn.
        index: positions of the drawn weights in each flattened site, in the vector's order.
        values: the drawn vectors (chains, draws, d), in units of the weights.
        log_density: log density of the sampled distribution, up to a constant (chains, draws),
            nats.
        stats: the sampler's statistics of each draw (chains, draws), by name.
        seconds: wall time.
        temperature: divisor of the log likelihood in the posterior.
    """

    method: Method
    model: BayesianModule
    weights: Weights
    index: dict[str, Tensor]
    values: Tensor
    log_density: Tensor
    stats: dict[str, Tensor]
    seconds: float
    temperature: float = 1.0

    @property
    def independent(self) -> bool:
        """Whether the draws are independent by construction, so that no chain must converge."""
        return "laplace" in self.method

    def at(self, chain: int, draw: int) -> Weights:
        """Return all weights of one draw. Pruned weights are zero."""
        return weights_with(self.values[chain, draw], self.weights, self.index)

    def thinned(self, number: int) -> "Draws":
        """Return about ``number`` draws, evenly spaced in each chain, or all if there are fewer."""
        chains, draws = self.values.shape[:2]
        retained = torch.linspace(
            0, draws - 1, min(draws, -(-number // chains)), device="cpu"
        ).long()
        stats = {name: value[:, retained] for name, value in self.stats.items()}
        values, log_density = self.values[:, retained], self.log_density[:, retained]
        return replace(self, values=values, log_density=log_density, stats=stats)

    def __repr__(self) -> str:
        chains, draws, size = self.values.shape
        return (
            f"Draws({self.method}: {chains} chains of {draws} draws of {size} surviving weights in "
            f"{', '.join(self.index)}; {self.seconds:.0f} s)"
        )


def surviving(
    weights: Mapping[str, Tensor], masks: Mapping[str, Tensor], sites: Sequence[str]
) -> dict[str, Tensor]:
    """Return the positions of the surviving weights in each flattened site."""
    every = {n: masks.get(n, torch.ones_like(weights[n], dtype=torch.bool)) for n in sites}
    return {n: m.flatten().nonzero().squeeze(1) for n, m in every.items()}


def gather(values: Mapping[str, Tensor], index: Mapping[str, Tensor]) -> Tensor:
    """Return the surviving elements of each site as one vector (d,)."""
    return torch.cat([values[n].detach().flatten()[i] for n, i in index.items()])


def scatter(vector: Tensor, like: Mapping[str, Tensor], index: Mapping[str, Tensor]) -> Weights:
    """Return the sites with the elements of ``vector`` (d,), and zeros elsewhere."""
    parts = vector.split([len(i) for i in index.values()])
    return {
        n: vector.new_zeros(like[n].numel()).index_put((i,), part).view(like[n].shape)
        for (n, i), part in zip(index.items(), parts, strict=True)
    }


def weights_with(vector: Tensor, weights: Weights, index: Mapping[str, Tensor]) -> Weights:
    """Return all weights, with those of ``vector`` (d,) replaced, in the network's precision."""
    dtype = next(iter(weights.values())).dtype
    return weights | scatter(vector.to(dtype), weights, index)


def log_prior(draws: Draws) -> dict[str, Tensor]:
    """Return the log prior density of each drawn site (chains, draws), nats."""
    priors = draws.model.priors_at(draws.weights)
    parts = draws.values.flatten(0, 1).split([len(i) for i in draws.index.values()], -1)
    densities = {}
    for (name, index), part in zip(draws.index.items(), parts, strict=True):
        like = draws.weights[name]
        rows = [
            priors[name].log_prob(_scattered(chunk, index, like)).double()
            for chunk in part.split(max(1, CACHE_ELEMENTS // like.numel()))
        ]
        densities[name] = torch.cat(rows).view(draws.values.shape[:2])
    return densities


def _scattered(rows: Tensor, index: Tensor, like: Tensor) -> Tensor:
    """Put rows (n, d) into n copies of a site (n, *shape), zero elsewhere."""
    whole = rows.new_zeros(len(rows), like.numel(), dtype=like.dtype)
    return whole.index_copy(1, index, rows.to(like.dtype)).view(-1, *like.shape)
