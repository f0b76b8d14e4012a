"""Inspection of a Pyro model's sites, checks of data and weights, and densities of single sites."""

import copy
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer.autoguide import init_to_median
from torch import Tensor

from pyro_bayesprune._utils.random import forked_rng
from pyro_bayesprune.data.inputs import Inputs, described, examples, num_examples
from pyro_bayesprune.models.handler import MaskedPrior
from pyro_bayesprune.models.module import BayesianModule, Model, evaluation_mode, network
from pyro_bayesprune.models.priors import elementwise

Site = dict[str, Any]
NO_SUBSAMPLE = (
    'the plate "data" must take the batch as its subsample, pyro.plate("data", N, subsample=x)'
)


@dataclass(frozen=True)
class ModelSites:
    """A model's latent sites, and its sites that are observed inside the plate ``data``."""

    latent: dict[str, Site]
    observed: dict[str, Site]
    num_data: int


def inspect_model(model: Model, x: Inputs, y: Tensor) -> ModelSites:
    """Return the sites of ``model``, read from an unconditioned trace of a few examples.

    Args:
        model: a Pyro model called as ``model(x, y)``.
        x: inputs (n, ...); at most two are used.
        y: targets (n, ...).

    Raises:
        ValueError: if there is no plate ``data`` that takes the batch as its subsample, a latent
            site inside the plate, a parameter site, or no observed site.
    """
    few = min(2, num_examples(x))
    trace = _trace_of(model, examples(x, slice(few)), y[:few])
    nodes, plate = trace.nodes, trace.nodes.get("data")
    if plate is None or not poutine.util.site_is_subsample(plate):
        raise ValueError(
            'the model has no plate "data": observe the targets inside '
            'pyro.plate("data", N, subsample=x), N the number of training examples' + _hint(model)
        )
    sites = {site["name"]: site for site in scored_sites(trace)}
    latent = {n: s for n, s in sites.items() if not (s["is_observed"] or is_fixed(s))}
    observed = {n: s for n, s in sites.items() if s["is_observed"] and in_data_plate(s)}
    _check_sites(nodes, latent, observed)
    frame = data_frame(next(iter(observed.values())))
    if frame.size != few:
        raise ValueError(f"{NO_SUBSAMPLE}: for {few} examples its size was {frame.size}")
    for site in latent.values():  # only shapes are used, so free the memory of the samples
        site["value"] = site["value"].new_zeros(()).expand(site["value"].shape)
    return ModelSites(latent, observed, frame.full_size)


def _trace_of(model: Model, x: Inputs, y: Tensor) -> poutine.Trace:
    try:
        with evaluation_mode(model), torch.no_grad(), forked_rng(y.device):
            return poutine.trace(model).get_trace(x, y)
    except (ValueError, RuntimeError, TypeError) as error:
        message = " ".join(str(error).split("Trace Shapes:")[0].split())
        if "plate('data')" in message:
            raise ValueError(
                f"{NO_SUBSAMPLE}; for {len(y)} examples Pyro reports: {message}"
            ) from error
        hint = _hint(model) if isinstance(error, TypeError) else ""
        raise ValueError(f"model(x, y) fails for inputs {described(x)}: {message}{hint}") from error


def _hint(model: Model) -> str:
    """Advice if the model is a plain network."""
    if network(model) is None or isinstance(network(model), BayesianModule):
        return ""
    return ". A plain network becomes a Pyro model by BayesianModule(net, prior, num_data)"


def _check_sites(
    nodes: Mapping[str, Site], latent: Mapping[str, Site], observed: Mapping[str, Site]
) -> None:
    for name, site in latent.items():
        _check_support(name, site)
        if site["value"].dtype in (torch.float16, torch.bfloat16):
            raise ValueError(
                f"the weights of {name!r} are {site['value'].dtype}, in which densities are "
                f"rounded to a few digits: use float32. For speed, fit(..., autocast='bf16') "
                f"computes outputs in bfloat16"
            )
        if in_data_plate(site):
            raise ValueError(f'the latent site {name!r} is inside the plate "data"')
    params = [name for name, site in nodes.items() if site["type"] == "param"]
    if params:
        raise ValueError(f"the model has parameters {params}: give them priors (pyro.sample)")
    if not observed:
        raise ValueError('the model observes nothing inside the plate "data"')


def _check_support(name: str, site: Site) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.distributions.transform_to(site["fn"].support)
    except NotImplementedError as error:
        raise ValueError(
            f"the prior of {name!r}, {type(elementwise(site['fn'])).__name__}, has a support that "
            f"PyTorch cannot map to the real numbers ({error}): MAP training needs such a map"
        ) from error


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
        elif isinstance(base, torch.distributions.Bernoulli):
            if not y.is_floating_point() or not base.support.check(y).all():
                raise ValueError(
                    f"{part} labels of the site {name!r} must be 0. and 1. for PyTorch's "
                    f"Bernoulli, got {y.dtype} up to {y.max().item()}: use labels.float()"
                )
        elif isinstance(base, torch.distributions.Poisson) and not base.support.check(y).all():
            raise ValueError(f"{part} targets of the site {name!r} must be counts 0, 1, 2, ...")


def check_weights(model: Model, sites: ModelSites, weights: Mapping[str, Tensor]) -> None:
    """Raise a ValueError unless ``weights`` has a value of the right shape for each latent site.

    Values of a BayesianModule's frozen parameters are allowed and ignored.
    """
    module = network(model)
    if isinstance(module, BayesianModule):
        weights = {n: weights[n] for n in set(weights) - set(module.constants())}
    missing, extra = set(sites.latent) - set(weights), set(weights) - set(sites.latent)
    if missing or extra:
        raise ValueError(
            f"weights must name the model's latent sites; "
            f"missing {sorted(missing)}, unknown {sorted(extra)}"
        )
    for name, site in sites.latent.items():
        expected, shape = tuple(site["value"].shape), tuple(weights[name].shape)
        if expected != shape:
            raise ValueError(f"weights of {name!r} must have shape {expected}, got {shape}")


def site_log_prob(site: Site) -> Tensor:
    """Return a site's log density with its scale and mask, summed in float64."""
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
    """Return the frame of the plate ``data`` around a site."""
    return next(frame for frame in site["cond_indep_stack"] if frame.name == "data")


def plate_scale(site: Site) -> float:
    """Return the scale N/B that the plate ``data`` gives to a site inside it."""
    frame = data_frame(site)
    return frame.full_size / frame.size


def scored_sites(trace: poutine.Trace) -> Iterator[Site]:
    """Yield a trace's sites with a density, which excludes subsamples and `pyro.deterministic`."""
    samples = (site for site in trace.nodes.values() if site["type"] == "sample")
    for site in samples:
        if not (poutine.util.site_is_subsample(site) or site["infer"].get("_deterministic")):
            yield site


def median_of(site: Site, device: torch.device) -> Tensor:
    """Return an estimate of the median of a site's prior, with the random numbers of the CPU."""
    if device.type == "cpu":
        return init_to_median(site)
    here = {id(values): values.detach().cpu() for values in _parameters(site["fn"])}
    return init_to_median({**site, "fn": copy.deepcopy(site["fn"], here)}).to(device)


def _parameters(value: Any) -> Iterator[Tensor]:  # noqa: ANN401
    """Yield the tensors of a distribution, with those of its bases and transforms."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _parameters(part)
    elif isinstance(value, (torch.distributions.Distribution, torch.distributions.Transform)):
        yield from _parameters(list(vars(value).values()))


def is_fixed(site: Mapping[str, Any]) -> bool:
    """Return whether a site is a constant: a latent site with a Delta prior."""
    return isinstance(elementwise(site["fn"]), dist.Delta) and not site["is_observed"]


def in_data_plate(site: Mapping[str, Any]) -> bool:
    """Return whether a site of a trace is inside the plate ``data``."""
    return any(frame.name == "data" for frame in site["cond_indep_stack"])
