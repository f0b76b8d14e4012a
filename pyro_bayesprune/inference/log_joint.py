"""Log joint densities of any Pyro model at a point."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from pyro import poutine
from torch import Tensor
from torch.nn.utils.parametrize import is_parametrized

from pyro_bayesprune.data.dataset import Dataset, Pair, train_part
from pyro_bayesprune.models.handler import PrunedPrior, pruned
from pyro_bayesprune.models.module import BayesianModule, Model, evaluation_mode, network
from pyro_bayesprune.models.sites import (
    check_num_data,
    check_targets,
    check_weights,
    example_log_prob,
    in_data_plate,
    inspect_model,
    plate_scale,
    scored_sites,
    site_log_prob,
)
from pyro_bayesprune.models.sparse import Surviving, worthwhile

CHUNK = 1024


@dataclass(frozen=True)
class LogJoint:
    """log p(D, w) in nats over the whole training set, as its two parts.

    Args:
        log_likelihood: log density of everything inside the plate ``data``.
        log_prior: log density of everything outside it: priors, factors.
    """

    log_likelihood: float
    log_prior: float

    @property
    def total(self) -> float:
        """Log likelihood + log prior, in nats."""
        return self.log_likelihood + self.log_prior


def at_point(
    model: Model,
    weights: Mapping[str, Tensor],
    masks: Mapping[str, Tensor] | None = None,
    pruned_prior: PrunedPrior = "density",
) -> Model:
    """Return ``model`` with its latent sites held at ``weights`` under ``masks``."""
    inner = pruned(model, masks, pruned_prior) if masks else model
    return poutine.condition(inner, data=dict(weights))


def lean(model: Model, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return a lifted network's weights, large sparse matrices held as what survives of them."""
    if not isinstance(network(model), BayesianModule):
        return weights
    masks = {name: weight != 0 for name, weight in weights.items()}
    few = {name for name, mask in masks.items() if worthwhile(weights[name], mask)}
    return dict(weights) | {
        n: Surviving.of(weights[n], weights[n][masks[n]], masks[n]) for n in few
    }


def _chunks(x: Tensor, y: Tensor, size: int) -> Iterator[Pair]:
    yield from zip(x.split(size), y.split(size), strict=True)


@torch.no_grad()
def log_joint(
    model: Model,
    weights: Mapping[str, Tensor],
    data: Dataset | Pair,
    masks: Mapping[str, Tensor] | None = None,
    pruned_prior: PrunedPrior = "density",
    *,
    temperature: float = 1.0,
    chunk_size: int = CHUNK,
) -> LogJoint:
    """Return log p(D, w) over all N training examples (paper, section II.A), in nats.

    In evaluation mode, without gradients, ``chunk_size`` examples at a time; sums run in float64.
    Only the data plate's own scale is divided out. What stands outside the plate counts once.

    Args:
        model: any Pyro model called as ``model(x, y)``, with a plate ``data``.
        weights: a value for each latent site.
        data: a `Dataset` (its training part) or a pair ``(x, y)``.
        masks: bool tensors for some of the sites; see `pyro_bayesprune.pruned`.
        pruned_prior: ``"density"`` or ``"dropped"``.
        temperature: divides the log likelihood (cold posteriors).
        chunk_size: examples that are in memory at a time; changes no result.

    Raises:
        ValueError: for weights or masks that do not fit the model, or an N that is not the plate's.
    """
    x, y = train_part(data)
    sites = inspect_model(model, x, y)
    check_num_data(sites, len(x))
    check_targets(sites, y)
    check_weights(model, sites, weights)
    held = at_point(model, lean(model, weights), masks, pruned_prior)
    log_likelihood, log_prior = torch.zeros((), dtype=torch.float64, device="cpu"), 0.0
    with evaluation_mode(model):
        for i, chunk in enumerate(_chunks(x, y, chunk_size)):
            for site in scored_sites(poutine.trace(held).get_trace(*chunk)):
                if in_data_plate(site):
                    log_likelihood = log_likelihood + site_log_prob(site).cpu() / plate_scale(site)
                elif i == 0:
                    log_prior += site_log_prob(site).item()
    joint = LogJoint(log_likelihood.item() / temperature, log_prior)
    if math.isnan(joint.total):
        raise ValueError(f"the log joint at these weights is not a number: {joint}{_hint(model)}")
    return joint


def _hint(model: Model) -> str:
    """What a parametrised layer may have to do with it."""
    module = network(model)
    parts = module.named_modules() if module is not None else ()
    names = [name.removeprefix("net.") for name, part in parts if is_parametrized(part)]
    if not names:
        return ""
    return (
        f". The parametrised layers {', '.join(names)} may divide by the norm of a weight: where a "
        f"whole row is pruned it is zero. Exclude them, as in sites=('!{names[0]}.*',)"
    )


@torch.no_grad()
def log_densities(
    model: Model,
    weights: Mapping[str, Tensor],
    data: Pair,
    *,
    temperature: float = 1.0,
    chunk_size: int = CHUNK,
) -> tuple[Tensor, float]:
    """Return each example's log likelihood (n,), float64, and the log prior, in nats.

    `log_joint` in parts, for some of the training examples: their sum over all is its own.
    """
    held = at_point(model, lean(model, weights))
    examples, log_prior = [], 0.0
    with evaluation_mode(model):
        for i, chunk in enumerate(_chunks(*data, chunk_size)):
            sites = list(scored_sites(poutine.trace(held).get_trace(*chunk)))
            inside = [example_log_prob(site) for site in sites if in_data_plate(site)]
            examples.append(torch.stack(inside).sum(0).cpu() / temperature)
            if i == 0:
                outside = [site_log_prob(site).item() for site in sites if not in_data_plate(site)]
                log_prior = sum(outside)
    return torch.cat(examples), log_prior
