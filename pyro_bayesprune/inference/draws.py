"""Draws of the surviving weights, and what a network says under them.

What is drawn is one vector (d,) of the surviving weights, scattered into the sites; a pruned weight
is zero in every draw. `diagnostics.posterior_draws` makes them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from pyro_bayesprune.models.module import BayesianModule, Weights

Method = Literal["laplace", "last_layer_laplace", "last_layer_nuts", "nuts"]
CACHE_ELEMENTS = 2**18  # of the scattered draws whose prior is looked at together: they fit a cache


@dataclass(frozen=True)
class Draws:
    """Draws of the surviving weights.

    Args:
        method: how they were drawn.
        model: the lifted network.
        weights: the point θ around which they were drawn; holds what is not drawn.
        index: positions of the drawn weights in each flattened site; their order is the vector's.
        values: the drawn vectors (chains, draws, d), in units of the weights.
        log_density: log density of what was drawn from, up to a constant (chains, draws), nats.
        stats: what the sampler told of each draw (chains, draws), by name.
        seconds: wall time.
        temperature: divided the log likelihood of the posterior that was drawn from.
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
        """Whether draws are independent by construction: then there is no chain to converge."""
        return "laplace" in self.method

    def at(self, chain: int, draw: int) -> Weights:
        """Return all weights of one draw; pruned ones are zero."""
        return weights_with(self.values[chain, draw], self.weights, self.index)

    def thinned(self, number: int) -> "Draws":
        """Return about ``number`` of the draws, evenly from each chain; all if there are fewer."""
        chains, draws = self.values.shape[:2]
        kept = torch.linspace(0, draws - 1, min(draws, -(-number // chains)), device="cpu").long()
        stats = {name: value[:, kept] for name, value in self.stats.items()}
        values, log_density = self.values[:, kept], self.log_density[:, kept]
        return replace(self, values=values, log_density=log_density, stats=stats)

    def __repr__(self) -> str:
        """Summarise: method, shape, time."""
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
    """Return the sites that hold the elements of ``vector`` (d,), and zeros elsewhere."""
    parts = vector.split([len(i) for i in index.values()])
    return {
        n: vector.new_zeros(like[n].numel()).index_put((i,), part).view(like[n].shape)
        for (n, i), part in zip(index.items(), parts, strict=True)
    }


def weights_with(vector: Tensor, weights: Weights, index: Mapping[str, Tensor]) -> Weights:
    """All weights with the drawn ones put in, in the network's precision."""
    dtype = next(iter(weights.values())).dtype
    return weights | scatter(vector.to(dtype), weights, index)


def log_prior(draws: Draws) -> dict[str, Tensor]:
    """Return the log prior density of each drawn site (chains, draws), nats."""
    priors = priors_at(draws.model, draws.weights, draws.index)
    parts = draws.values.flatten(0, 1).split([len(i) for i in draws.index.values()], -1)
    found = {}
    for (name, index), part in zip(draws.index.items(), parts, strict=True):
        like = draws.weights[name]
        rows = [
            priors[name].log_prob(_scattered(some, index, like)).double()
            for some in part.split(max(1, CACHE_ELEMENTS // like.numel()))
        ]
        found[name] = torch.cat(rows).view(draws.values.shape[:2])
    return found


def priors_at(
    model: BayesianModule, weights: Mapping[str, Tensor], index: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Return the priors of the drawn sites, at the scales that the point holds."""
    every = model.priors_at(weights)
    return {n: every[n] for n in index}


def _scattered(rows: Tensor, index: Tensor, like: Tensor) -> Tensor:
    """Put rows (n, d) into n copies of a site (n, *shape), zero elsewhere."""
    whole = rows.new_zeros(len(rows), like.numel(), dtype=like.dtype)
    return whole.index_copy(1, index, rows.to(like.dtype)).view(-1, *like.shape)
