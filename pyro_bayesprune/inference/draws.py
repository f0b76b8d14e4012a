"""Draws of the surviving weights: one vector (d,) for each draw.

The vector is scattered into the sites. A pruned weight is zero in every draw. `samplers` makes the
draws.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from pyro import poutine
from torch import Tensor

from pyro_bayesprune.data.dataset import Pair
from pyro_bayesprune.data.inputs import examples
from pyro_bayesprune.inference.log_joint import at_point
from pyro_bayesprune.models.handler import PrunedPrior
from pyro_bayesprune.models.module import BayesianModule, Masks, Weights, evaluation_mode
from pyro_bayesprune.models.priors import elementwise
from pyro_bayesprune.models.sites import (
    Site,
    in_data_plate,
    inspect_model,
    scored_sites,
    site_log_prob,
)

Method = Literal["laplace", "last_layer_laplace", "last_layer_nuts", "nuts"]
CACHE_ELEMENTS = (
    2**18
)  # of scattered draws whose prior is evaluated together, which fit into a cache


@dataclass(frozen=True)
class Draws:
    """Draws of the surviving weights.

    Args:
        method: the sampling method.
        model: the Pyro model; for methods other than ``nuts``, a lifted network.
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
    model: Any  # a Pyro model
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

    def each(self) -> Iterator[Weights]:
        """Yield all weights of every draw, chain by chain."""
        chains, draws = self.values.shape[:2]
        return (self.at(chain, draw) for chain in range(chains) for draw in range(draws))

    @property
    def of_parameters(self) -> bool:
        """Whether only parameters of a lifted network are drawn, and no scale or noise."""
        is_lifted = isinstance(self.model, BayesianModule)
        return is_lifted and set(self.index) <= set(self.model.named_weights())

    @property
    def masks(self) -> Masks:
        """The masks of the sites of which some elements are not drawn."""
        return masks_of(self.weights, self.index)

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


def masks_of(weights: Mapping[str, Tensor], index: Mapping[str, Tensor]) -> Masks:
    """Return masks of the sites of which ``index`` has only some elements."""
    masks = {}
    for name, positions in index.items():
        if len(positions) < weights[name].numel():
            mask = torch.zeros_like(weights[name], dtype=torch.bool)
            mask.view(-1)[positions] = True
            masks[name] = mask
    return masks


def surviving_prior(sites: Mapping[str, Site], masks: Mapping[str, Tensor]) -> PrunedPrior:
    """Return how the prior counts pruned elements where scales are drawn: not, if it factorises."""
    joint = any(elementwise(sites[name]["fn"]).event_shape for name in masks)
    return "density" if joint else "dropped"


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


def log_prior(draws: Draws, data: Pair) -> dict[str, Tensor]:
    """Return the log prior density of each site (chains, draws), nats.

    Args:
        draws: the draws. If they are of parameters of a lifted network, only these have a density
            here, with that of the pruned weights. Otherwise each site outside the plate ``data``
            has one, without that of the pruned elements (see `surviving_prior`).
        data: some examples, with which a Pyro model can run.
    """
    if not draws.of_parameters:
        return _traced_log_prior(draws, data)
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


@torch.no_grad()
def _traced_log_prior(draws: Draws, data: Pair) -> dict[str, Tensor]:
    x, y = examples(data[0], slice(2)), data[1][:2]
    kind = surviving_prior(inspect_model(draws.model, x, y).latent, draws.masks)
    rows = []
    with evaluation_mode(draws.model):
        for weights in draws.each():
            model = at_point(draws.model, weights, draws.masks, kind)
            sites = scored_sites(poutine.trace(model).get_trace(x, y))
            rows.append({s["name"]: site_log_prob(s) for s in sites if not in_data_plate(s)})
    shape = draws.values.shape[:2]
    return {n: torch.stack([row[n] for row in rows]).view(shape) for n in rows[0]}


def _scattered(rows: Tensor, index: Tensor, like: Tensor) -> Tensor:
    """Put rows (n, d) into n copies of a site (n, *shape), zero elsewhere."""
    whole = rows.new_zeros(len(rows), like.numel(), dtype=like.dtype)
    return whole.index_copy(1, index, rows.to(like.dtype)).view(-1, *like.shape)
