"""Log joint densities of any Pyro model at a point, and Bayes factors between two points."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pyro_bayesprune.data import Dataset, Pair, train_part
from pyro_bayesprune.model import (
    BayesianModule,
    MaskedPrior,
    Model,
    PrunedPrior,
    evaluation_mode,
    in_data_plate,
    network,
    pruned,
)
from pyro_bayesprune.priors import elementwise
from pyro_bayesprune.sparse import Surviving, worthwhile

Per = Literal["dataset", "datum"]
Site = dict[str, Any]
CHUNK = 1024
NO_SUBSAMPLE = (
    'the plate "data" must take the batch as its subsample, pyro.plate("data", N, subsample=x)'
)


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


@dataclass(frozen=True)
class BayesFactor:
    """Pruned over unpruned (the paper's BF_01, usually written BF_10); above one favours pruning.

    Of kind ``joint`` it is a ratio of joint densities at two points (the paper's Bayes factor):
    posterior odds of two points, not a ratio of marginal likelihoods. At an exact MAP it cannot
    exceed one.

    Args:
        log_likelihood_ratio: difference of log likelihoods, nats.
        log_prior_ratio: difference of log priors, nats.
        num_data: number N of training examples.
        kind: what is compared: ``joint``, or marginal likelihoods by ``laplace`` or
            ``savage_dickey`` (see `pyro_bayesprune.evidence`).
        log_occam_ratio: difference of log Occam factors, nats; 0 for ``joint``, which has none.
    """

    log_likelihood_ratio: float
    log_prior_ratio: float
    num_data: int
    kind: str = "joint"
    log_occam_ratio: float = 0.0

    @classmethod
    def joint(cls, pruned: LogJoint, unpruned: LogJoint, num_data: int) -> "BayesFactor":
        """Return the ratio of two joint densities."""
        return cls(
            pruned.log_likelihood - unpruned.log_likelihood,
            pruned.log_prior - unpruned.log_prior,
            num_data,
        )

    @property
    def log(self) -> float:
        """Log Bayes factor over the data set, in nats."""
        return self.log_likelihood_ratio + self.log_prior_ratio + self.log_occam_ratio

    def value(self, per: Per = "dataset") -> float:
        """Return the Bayes factor, or with ``per="datum"`` its N-th root (the paper's scale)."""
        log = self.log / self.num_data if per == "datum" else self.log
        return math.exp(log) if log < 709 else math.inf


@dataclass(frozen=True)
class ModelSites:
    """What a model samples: latent sites, and those observed inside the plate ``data``."""

    latent: dict[str, Site]
    observed: dict[str, Site]
    num_data: int


def inspect_model(model: Model, x: Tensor, y: Tensor) -> ModelSites:
    """Return the sites of ``model``, read from an unconditioned trace of a few examples.

    Args:
        model: a Pyro model called as ``model(x, y)``.
        x: inputs (n, ...); at most two are used.
        y: targets (n, ...).

    Raises:
        ValueError: without a plate ``data`` that takes the batch as its subsample, with a latent or
            parameter site where there must be none, or when N is not the plate's.
    """
    few = min(2, len(x))
    trace = _trace_of(model, x[:few], y[:few])
    nodes, plate = trace.nodes, trace.nodes.get("data")
    if plate is None or not poutine.util.site_is_subsample(plate):
        raise ValueError(
            'the model has no plate "data": observe the targets inside '
            'pyro.plate("data", N, subsample=x), N the number of training examples'
        )
    sites = {site["name"]: site for site in scored_sites(trace)}
    latent = {n: s for n, s in sites.items() if not s["is_observed"]}
    observed = {n: s for n, s in sites.items() if s["is_observed"] and in_data_plate(s)}
    _check_sites(nodes, latent, observed)
    frame = data_frame(next(iter(observed.values())))
    if frame.size != few:
        raise ValueError(f"{NO_SUBSAMPLE}: for {few} examples its size was {frame.size}")
    for site in latent.values():  # asked for shapes only: hold no sample of a whole network
        site["value"] = site["value"].new_zeros(()).expand(site["value"].shape)
    return ModelSites(latent, observed, frame.full_size)


def _trace_of(model: Model, x: Tensor, y: Tensor) -> poutine.Trace:
    try:
        with evaluation_mode(model), torch.no_grad(), torch.random.fork_rng():
            return poutine.trace(model).get_trace(x, y)
    except (ValueError, RuntimeError, TypeError) as error:
        told = " ".join(str(error).split("Trace Shapes:")[0].split())  # shapes: see the cause
        if "plate('data')" in told:
            raise ValueError(f"{NO_SUBSAMPLE}; for {len(x)} examples Pyro says: {told}") from error
        inputs = f"{x.dtype} of shape (n, {', '.join(map(str, x.shape[1:]))})"
        raise ValueError(f"model(x, y) fails for inputs {inputs}: {told}") from error


def _check_sites(
    nodes: Mapping[str, Site], latent: Mapping[str, Site], observed: Mapping[str, Site]
) -> None:
    for name, site in latent.items():
        if in_data_plate(site):
            raise ValueError(f'the latent site {name!r} stands inside the plate "data"')
    params = [name for name, site in nodes.items() if site["type"] == "param"]
    if params:
        raise ValueError(f"the model has parameters {params}: give them priors (pyro.sample)")
    if not observed:
        raise ValueError('the model observes nothing inside the plate "data"')


def check_num_data(model_sites: ModelSites, num_data: int) -> None:
    """Raise a ValueError unless the plate's size is the number of training examples."""
    if model_sites.num_data != num_data:
        raise ValueError(
            f'the plate "data" has size {model_sites.num_data}, the training data have {num_data} '
            f"examples (a BayesianModule's num_data, or the size in pyro.plate)"
        )


def check_targets(sites: ModelSites, y: Tensor, part: str = "train") -> None:
    """Raise a ValueError unless ``y`` are targets that the observed site can have."""
    for name, site in sites.observed.items():
        base = elementwise(site["fn"])
        if isinstance(base, torch.distributions.Categorical):
            classes = base.logits.shape[-1]
            if y.is_floating_point() or int(y.max()) >= classes:
                raise ValueError(
                    f"{part} labels of the site {name!r} must be integers from 0 to {classes - 1}, "
                    f"got {y.dtype} up to {y.max().item()}"
                )


def check_weights(sites: ModelSites, weights: Mapping[str, Tensor]) -> None:
    """Raise a ValueError unless ``weights`` has a value of the right shape for each latent site."""
    if set(weights) != set(sites.latent):
        missing, extra = set(sites.latent) - set(weights), set(weights) - set(sites.latent)
        raise ValueError(
            f"weights must name the model's latent sites; "
            f"missing {sorted(missing)}, unknown {sorted(extra)}"
        )
    for name, site in sites.latent.items():
        expected, found = tuple(site["value"].shape), tuple(weights[name].shape)
        if expected != found:
            raise ValueError(f"weights of {name!r} must have shape {expected}, got {found}")


def site_log_prob(site: Site) -> Tensor:
    """Return a site's log density (float64 scalar), with its scale and mask, summed in float64."""
    fn, value, scale, mask = site["fn"], site["value"], site["scale"], site["mask"]
    if mask is None and not isinstance(scale, Tensor):
        if isinstance(fn, MaskedPrior):
            log_prob = fn.elementwise_log_prob(value)
        else:
            log_prob = elementwise(fn).log_prob(value)
        return log_prob.sum(dtype=torch.float64) * scale
    return scale_and_mask(fn.log_prob(value), scale, mask).sum(dtype=torch.float64)


def example_log_prob(site: Site) -> Tensor:
    """Return the log density (n,) of each example in a site inside the plate ``data``, float64."""
    log_prob = scale_and_mask(site["fn"].log_prob(site["value"]), site["scale"], site["mask"])
    log_prob = log_prob.double() / plate_scale(site)
    frame = data_frame(site)
    others = [dim for dim in range(-log_prob.dim(), 0) if dim != frame.dim]
    return log_prob.sum(others) if others else log_prob


def data_frame(site: Site) -> Any:  # noqa: ANN401  (a named tuple of Pyro's)
    """Return the frame of the plate ``data`` that a site stands in."""
    return next(frame for frame in site["cond_indep_stack"] if frame.name == "data")


def plate_scale(site: Site) -> float:
    """Return the data plate's own scale N/B of a site inside it."""
    frame = data_frame(site)
    return frame.full_size / frame.size


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


def scored_sites(trace: poutine.Trace) -> Iterator[Site]:
    """Yield the sites of a trace that have a density: no subsamples, no `pyro.deterministic`."""
    samples = (site for site in trace.nodes.values() if site["type"] == "sample")
    for site in samples:
        if not (poutine.util.site_is_subsample(site) or site["infer"].get("_deterministic")):
            yield site


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
    check_weights(sites, weights)
    held = at_point(model, lean(model, weights), masks, pruned_prior)
    log_likelihood, log_prior = torch.zeros((), dtype=torch.float64), 0.0
    with evaluation_mode(model):
        for i, chunk in enumerate(_chunks(x, y, chunk_size)):
            for site in scored_sites(poutine.trace(held).get_trace(*chunk)):
                if in_data_plate(site):
                    log_likelihood = log_likelihood + site_log_prob(site).cpu() / plate_scale(site)
                elif i == 0:
                    log_prior += site_log_prob(site).item()
    joint = LogJoint(log_likelihood.item() / temperature, log_prior)
    if math.isnan(joint.total):
        raise ValueError(f"the log joint at these weights is not a number: {joint}")
    return joint


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


@torch.no_grad()
def predictive(
    model: Model,
    weights: Mapping[str, Tensor],
    x: Tensor,
    masks: Mapping[str, Tensor] | None = None,
    *,
    chunk_size: int = CHUNK,
) -> Iterator[dist.TorchDistribution]:
    """Yield the distribution of the targets of ``x`` at a point, a chunk at a time.

    Raises:
        ValueError: if the model has not exactly one observed site inside the plate ``data``.
    """
    held = at_point(model, weights, masks)
    with evaluation_mode(model):
        for chunk in x.split(chunk_size):
            with torch.random.fork_rng():  # the trace samples targets
                trace = poutine.trace(held).get_trace(chunk)
            inside = [
                s for s in scored_sites(trace) if in_data_plate(s) and s["name"] not in weights
            ]
            if len(inside) != 1:
                names = [site["name"] for site in inside]
                raise ValueError(f"prediction needs one observed site, the model has {names}")
            yield inside[0]["fn"]


def class_probabilities(
    model: Model,
    weights: Mapping[str, Tensor],
    x: Tensor,
    masks: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Return the class probabilities (n, classes) of inputs ``x`` (n, ...) at a point.

    Raises:
        ValueError: if the observed site is not a categorical distribution.
    """
    chunks = []
    for target in predictive(model, weights, x, masks):
        base = elementwise(target)
        if not isinstance(base, torch.distributions.Categorical):
            raise ValueError(f"class probabilities need a categorical site, got {base}")
        chunks.append(base.probs)
    return torch.cat(chunks)


def mean_prediction(
    model: Model,
    weights: Mapping[str, Tensor],
    x: Tensor,
    masks: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Return the mean of the targets' distribution for inputs ``x`` (n, ...) at a point.

    Raises:
        ValueError: if the observed site is categorical: classes have no mean.
    """
    means = []
    for target in predictive(model, weights, x, masks):
        if isinstance(elementwise(target), torch.distributions.Categorical):
            raise ValueError("classes have no mean: ask for their probabilities (predict_proba)")
        means.append(target.mean)
    return torch.cat(means)


@torch.no_grad()
def held_out_loss(
    model: Model,
    weights: Mapping[str, Tensor],
    x: Tensor,
    y: Tensor,
    masks: Mapping[str, Tensor] | None = None,
) -> tuple[float, float]:
    """Return the mean negative log likelihood (nats an example) and the accuracy of held-out data.

    The accuracy is NaN where the targets are not classes.
    """
    log_likelihood, correct, start = 0.0, 0.0, 0
    for target in predictive(model, weights, x, masks):
        base = elementwise(target)
        truth = y[start : start + CHUNK]
        start += len(truth)
        log_likelihood += base.log_prob(truth).sum(dtype=torch.float64).item()
        if isinstance(base, torch.distributions.Categorical):
            correct += (base.logits.argmax(-1) == truth).sum().item()
        else:
            correct = math.nan
    return -log_likelihood / len(x), correct / len(x)
