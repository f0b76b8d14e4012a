"""Log joint densities of any Pyro model at a point."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from pyro import poutine
from torch import Tensor
from torch.nn.utils.parametrize import is_parametrized

from pyro_bayesprune.data.batches import Batches
from pyro_bayesprune.data.inputs import tensors
from pyro_bayesprune.data.loading import Data, as_batches
from pyro_bayesprune.models.handler import PrunedPrior, pruned
from pyro_bayesprune.models.module import (
    BayesianModule,
    Model,
    evaluation_mode,
    network,
    submodules,
)
from pyro_bayesprune.models.sites import (
    Site,
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

CHUNK = 256  # examples whose activations fit into a processor's cache, also in a CNN
LARGE, ELEMENTS = 2**14, 2**24  # on a device: at most so many examples, and numbers in them


@dataclass(frozen=True)
class LogJoint:
    """log p(D, w) in nats over the whole training set, as its two parts.

    Args:
        log_likelihood: log density of everything inside the plate ``data``.
        log_prior: log density of everything outside it (priors, factors).
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
    """Return ``model`` conditioned on ``weights`` at its latent sites, under ``masks``."""
    inner = pruned(model, masks, pruned_prior) if masks else model
    return poutine.condition(inner, data=dict(weights))


def lean(model: Model, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return a lifted network's weights, with large sparse matrices stored as their survivors."""
    if not isinstance(network(model), BayesianModule):
        return weights
    result = dict(weights)
    for name, weight in weights.items():
        mask = weight != 0
        if worthwhile(weight, mask):
            result[name] = Surviving.of(weight, weight[mask], mask)
    return result


def batches_at(data: Data, weights: Mapping[str, Tensor]) -> Batches:
    """Return data on the device and in the dtype of some weights, see `as_batches`."""
    return as_batches(data, like=next(iter(weights.values()), None))


def chunk_of(data: Batches) -> int:
    """Return the number of examples that are evaluated together; more on a device than here."""
    if data.device.type == "cpu":
        return CHUNK
    size = sum(part.numel() for part in tensors(data.first(1)[0]))
    return min(LARGE, max(CHUNK, ELEMENTS // size))


def _scored_chunks(model: Model, data: Batches, size: int) -> Iterator[tuple[Tensor, list[Site]]]:
    """Yield targets, and the sites that have a density, for one chunk of examples at a time."""
    for x, y in data.chunks(size):
        yield y, list(scored_sites(poutine.trace(model).get_trace(x, y)))


def _log_prior(sites: list[Site]) -> float:
    return sum(site_log_prob(site).item() for site in sites if not in_data_plate(site))


@torch.no_grad()
def log_joint(
    model: Model,
    weights: Mapping[str, Tensor],
    data: Data,
    masks: Mapping[str, Tensor] | None = None,
    pruned_prior: PrunedPrior = "density",
    *,
    temperature: float = 1.0,
    chunk_size: int | None = None,
) -> LogJoint:
    """Return log p(D, w) over all N training examples (paper, section II.A), in nats.

    The model runs in evaluation mode and without gradients. Sums are in float64. Only the scale of
    the plate ``data`` is removed. Sites outside the plate count once.

    Args:
        model: any Pyro model called as ``model(x, y)``, with a plate ``data``.
        weights: a value for each latent site.
        data: all training examples in any form that `as_batches` accepts.
        masks: bool tensors for some of the sites; see `pyro_bayesprune.pruned`.
        pruned_prior: ``"density"`` or ``"dropped"``.
        temperature: divides the log likelihood (cold posteriors).
        chunk_size: number of examples in memory at a time. It changes the result by rounding only.

    Raises:
        ValueError: for weights or masks that do not fit the model, or if N is not the plate's size.
    """
    batches = batches_at(data, weights)
    chunk_size = chunk_size or chunk_of(batches)
    sites = inspect_model(model, *batches.first(2))
    check_num_data(sites, batches.num_data)
    check_weights(model, sites, weights)
    conditioned = at_point(model, lean(model, weights), masks, pruned_prior)
    log_likelihood, log_prior = torch.zeros((), dtype=torch.float64, device="cpu"), 0.0
    with evaluation_mode(model):
        for i, (y, scored) in enumerate(_scored_chunks(conditioned, batches, chunk_size)):
            check_targets(sites, y)
            for site in filter(in_data_plate, scored):
                log_likelihood = log_likelihood + site_log_prob(site).cpu() / plate_scale(site)
            log_prior = _log_prior(scored) if i == 0 else log_prior
    joint = LogJoint(log_likelihood.item() / temperature, log_prior)
    if math.isnan(joint.total):
        raise ValueError(f"the log joint at these weights is not a number: {joint}{_hint(model)}")
    return joint


def _hint(model: Model) -> str:
    """Advice if the model has parametrised layers."""
    parametrised = [name for name, part in submodules(model) if is_parametrized(part)]
    names = [name.removeprefix("net.") for name in parametrised]
    if not names:
        return ""
    return (
        f". The parametrised layers {', '.join(names)} may divide by the norm of a weight, which "
        f"is zero if a whole row is pruned. Exclude them, as in sites=('!{names[0]}.*',)"
    )


@torch.no_grad()
def log_densities(
    model: Model, weights: Mapping[str, Tensor], data: Data, *, temperature: float = 1.0
) -> tuple[Tensor, float]:
    """Return each example's log likelihood (n,), float64, and the log prior, in nats.

    The sum over all training examples is the result of `log_joint`.
    """
    conditioned, batches = at_point(model, lean(model, weights)), batches_at(data, weights)
    examples, log_prior = [], 0.0
    with evaluation_mode(model):
        for i, (_, scored) in enumerate(_scored_chunks(conditioned, batches, chunk_of(batches))):
            inside = [example_log_prob(site) for site in scored if in_data_plate(site)]
            examples.append(torch.stack(inside).sum(0).cpu() / temperature)
            log_prior = _log_prior(scored) if i == 0 else log_prior
    return torch.cat(examples), log_prior
