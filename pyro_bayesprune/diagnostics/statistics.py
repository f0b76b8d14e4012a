"""Diagnostics of posterior draws with ArviZ, where their conditions hold.

A MAP is a single point and not a sample, so all functions raise an error without draws. Draws from
an approximation diagnose the approximation and not the exact posterior. ``attrs["approximation"]``
names it.
"""

import itertools
import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from pyro_bayesprune.diagnostics import _arviz
from pyro_bayesprune.diagnostics._arviz import DRAWS, SAMPLE, InferenceData, group, groups
from pyro_bayesprune.diagnostics.thresholds import GOOD_K, GOOD_SENSITIVITY

MIN_DRAWS = 4
MIN_LOO = 25  # with fewer draws the tail of the importance weights has less than five of them
INTERVALS = 12  # of targets that are no classes
STUCK = 999.0  # replaces an infinite rhat, which JSON cannot represent
EQUAL = 1e-6  # nats: below this spread of its log likelihoods, an example has equal weights
COLUMNS = ["mean", "sd", "mcse_mean", "r_hat", "ess_bulk", "ess_tail"]


def check_draws(idata: InferenceData, required: str = "posterior") -> None:
    """Raise a ValueError without draws (a single point is not a sample) or without a group."""
    names = groups(idata)
    if "posterior" not in names or group(idata, "posterior").sizes.get("draw", 0) < MIN_DRAWS:
        raise ValueError(
            "posterior draws are required: a MAP is one point and has no rhat, ESS or LOO. Call "
            "inference.samplers.posterior_draws(fit, data, method=...) first"
        )
    if required not in names:
        raise ValueError(f"the InferenceData has no group {required!r}")


def check_loo(draws: int) -> None:
    """Raise a ValueError if this number of draws, in all chains together, is too small for LOO."""
    if draws < MIN_LOO:
        raise ValueError(f"LOO needs at least {MIN_LOO} draws in all chains together, got {draws}")


def summary(idata: InferenceData) -> pd.DataFrame:
    """Return mean, sd, MCSE, rhat and ESS of every quantity in ``posterior``.

    rhat (Vehtari et al., 2021) compares chains. It is NaN for independent draws (Laplace). Judge by
    the log joint and the predictions: the rhat of single weights may be large due to symmetries.

    Raises:
        ValueError: without draws, or for a single chain of dependent draws.
    """
    check_draws(idata)
    chains, draws = (group(idata, "posterior").sizes[name] for name in DRAWS)
    independent = bool(idata.attrs.get("independent_draws"))
    if chains < 2 and not independent:
        raise ValueError("rhat compares chains and requires two or more, got one")
    with warnings.catch_warnings():
        # for quantities that are constant in one chain or in all chains
        warnings.filterwarnings("ignore", "invalid value|divide by zero", RuntimeWarning)
        table = _arviz.summary(idata, "stats" if independent else "all")
    if independent:
        count = float(chains * draws)
        table = table.assign(r_hat=math.nan, ess_bulk=count, ess_tail=count)
        table["mcse_mean"] = table["sd"] / math.sqrt(count)
    return table[COLUMNS].astype(float)


def convergence(idata: InferenceData) -> dict[str, Any]:
    """Return the worst rhat and ESS of log joint, predictions and weights, and the divergences."""
    table = summary(idata)
    groups = table.index.str.extract(r"^(\w+)")[0].to_numpy()
    worst: dict[str, Any] = {}
    for name, part in table.groupby(groups):
        rhat = float(part["r_hat"].max())
        ess = float(part[["ess_bulk", "ess_tail"]].min().min())
        worst[f"rhat_{name}"] = None if math.isnan(rhat) else min(rhat, STUCK)
        worst[f"ess_{name}"] = None if math.isnan(ess) else ess
    diverging = group(idata, "sample_stats").get("diverging")
    return worst | {"divergences": None if diverging is None else int(diverging.sum())}


def loo(idata: InferenceData) -> Any:  # noqa: ANN401  (arviz.ELPDData)
    """Return PSIS-LOO (Vehtari, Gelman and Gabry, 2017) with the Pareto k of each example, in nats.

    If k is above 0.7, the contribution of the example is unreliable: without it, the posterior is
    too different for importance sampling. If all draws give an example the same likelihood, k is 0.
    At a temperature T, the weights p(y|w)^(-1/T) leave an example out, and p(y|w) is predicted.

    Draws from a Laplace approximation q that have ``log_q`` in ``sample_stats`` are weighted by
    p/q, so that the result refers to the posterior p and not to q (Magnusson et al., 2019). If q is
    far from p, k is large for all examples. The attribute ``importance_corrected`` says whether
    the draws have ``log_q``.

    Raises:
        ValueError: without draws or log likelihoods, or for fewer than 25 draws.
    """
    check_draws(idata, "log_likelihood")
    by_draw = group(idata, "log_likelihood")["obs"]
    check_loo(by_draw.sizes["chain"] * by_draw.sizes["draw"])
    stats = group(idata, "sample_stats") if "sample_stats" in groups(idata) else xr.Dataset()
    with warnings.catch_warnings():
        # `pareto_table` reports large k, and equal weights cause the RuntimeWarnings.
        warnings.filterwarnings("ignore", "Estimated shape parameter of Pareto", UserWarning)
        warnings.filterwarnings("ignore", "invalid value|divide by zero", RuntimeWarning)
        result = _arviz.loo(
            idata,
            reff=1.0 if idata.attrs.get("independent_draws") else None,
            temperature=float(idata.attrs.get("temperature", 1.0)),
            log_ratio=stats["lp"] - stats["log_q"] if "log_q" in stats else None,
        )
    if "log_q" in stats:  # the weights of the draws differ even if those of the example do not
        return _arviz.with_pareto_k(result, result.pareto_k, GOOD_K)
    spread = by_draw.max(DRAWS) - by_draw.min(DRAWS)
    return _arviz.with_pareto_k(result, result.pareto_k.where(spread > EQUAL, 0.0), GOOD_K)


def pareto_table(result: Any) -> pd.DataFrame:  # noqa: ANN401
    """Return how many examples of a result of `loo` have a good, bad and very bad Pareto k."""
    words = ["good (k at most 0.7)", "bad (0.7 to 1)", "very bad (above 1)"]
    grades = np.digitize(result.pareto_k, (GOOD_K, 1.0), right=True)
    counts = np.bincount(grades, minlength=len(words))
    return pd.DataFrame({"pareto_k": words, "examples": counts, "share": counts / len(grades)})


def compare(named: Mapping[str, InferenceData]) -> pd.DataFrame:
    """Return ArviZ's comparison of expected log predictive densities, best first.

    Raises:
        ValueError: for fewer than two networks, without draws, for different examples, or for
            draws from different approximations, whose errors would be compared.
    """
    if len(named) < 2:
        raise ValueError(f"a comparison requires two or more networks, got {len(named)}")
    for idata in named.values():
        check_draws(idata, "log_likelihood")
    targets = [group(idata, "observed_data")["obs"] for idata in named.values()]
    if not all(bool(targets[0].identical(other)) for other in targets[1:]):
        raise ValueError("networks can be compared only on the same examples of the same data")
    if len({idata.attrs.get("approximation") for idata in named.values()}) > 1:
        raise ValueError("networks can be compared only by draws of the same approximation")
    return _arviz.compare({name: loo(idata) for name, idata in named.items()})


def power_scaling(idata: InferenceData) -> pd.DataFrame:
    """Return the sensitivity of norms and predictions to the prior and to the likelihood.

    Power-scaling sensitivity (Kallioinen et al., 2023) above 0.05 is relevant. If a quantity is
    sensitive to both, prior and data may be in conflict. If it is sensitive to the prior only, the
    data contain little information. The method reweights the draws. There is no diagnosis if a
    Pareto k of these weights is above 0.7.

    Raises:
        ValueError: without draws or log priors.
    """
    check_draws(idata, "log_prior")
    prior = group(idata, "log_prior").to_array().sum("variable")
    likelihood = group(idata, "sample_stats")["lp"] - prior
    scaled = {
        "posterior": group(idata, "posterior").drop_vars(["weight", "log_joint"]),
        "log_prior": xr.Dataset({"prior": prior}),
        "log_likelihood": xr.Dataset({"total": likelihood}),
    }
    draws, components = _arviz.from_datasets(scaled, {}), ("prior", "likelihood")
    table = pd.DataFrame({c: _flat(_arviz.power_scaling(draws, c)) for c in components})
    by_prior, by_likelihood = (table[c] > GOOD_SENSITIVITY for c in components)
    table["diagnosis"] = "-"
    table.loc[by_prior & by_likelihood, "diagnosis"] = "possible prior-data conflict"
    table.loc[by_prior & ~by_likelihood, "diagnosis"] = "prior strong, data weak"
    k = max(_reweighting_k(prior), _reweighting_k(likelihood))
    if k > GOOD_K:
        table["diagnosis"] = f"none: reweighting fails (Pareto k {k:.1f})"
    return table


def _reweighting_k(log_component: xr.DataArray) -> float:
    """Return the larger Pareto k of the weights that scale a log density by 1.01 and by 1/1.01."""
    values = log_component.stack({SAMPLE: DRAWS})
    return max(float(_arviz.psis(power * values, 1.0)[1]) for power in (0.01, 1 / 1.01 - 1))


def _flat(values: xr.Dataset) -> dict[str, float]:
    """Return the elements of all variables as one dictionary, with names as in `summary`."""
    elements = {}
    for name, array in values.items():
        for key in np.ndindex(array.shape):
            coords = array[key].coords
            named = (
                coords[d].item() if d in coords else i for d, i in zip(array.dims, key, strict=True)
            )
            labels = ", ".join(map(str, named))
            elements[f"{name}[{labels}]" if labels else str(name)] = float(array[key])
    return elements


def trace_frame(idata: InferenceData) -> pd.DataFrame:
    """Return the log joint of each draw (nats) as a frame: chain, draw, value."""
    check_draws(idata)
    frame = group(idata, "posterior")["log_joint"].to_series().rename("value").reset_index()
    return frame[["chain", "draw", "value"]]


def frequencies(idata: InferenceData, num_classes: int | None = None) -> pd.DataFrame:
    """Return frequencies of targets: observed, and of the available predictive distributions.

    Args:
        idata: the draws.
        num_classes: number of classes, of each of which the table has a row. None for other
            targets: the rows are then `INTERVALS` intervals of equal width from the smallest to
            the largest observed target, with those outside in the first and the last one.
    """
    check_draws(idata)
    names = ("observed_data", "posterior_predictive", "prior_predictive")
    values = {
        name.split("_")[0]: group(idata, name)["obs"].to_numpy().ravel()
        for name in names
        if name in groups(idata)
    }
    if num_classes is not None:
        counts = {n: np.bincount(v.astype(int), minlength=num_classes) for n, v in values.items()}
        shares = {name: count / count.sum() for name, count in counts.items()}
        return pd.DataFrame(shares).rename_axis("class").reset_index()
    low, high = values["observed"].min(), values["observed"].max()
    edges = np.linspace(low, high if high > low else low + max(1, abs(low)), INTERVALS + 1)
    clipped = {name: np.clip(array, edges[0], edges[-1]) for name, array in values.items()}
    shares = {n: np.histogram(array, edges)[0] / array.size for n, array in clipped.items()}
    texts = ([f"{edge:.{digits}g}" for edge in edges[1:-1]] for digits in range(3, 18))
    inner = next(names for names in texts if len(set(names)) == len(names))
    between = [f"{a} to {b}" for a, b in itertools.pairwise(inner)]
    labels = [f"below {inner[0]}", *between, f"above {inner[-1]}"]
    return pd.DataFrame({"target": labels} | shares)
