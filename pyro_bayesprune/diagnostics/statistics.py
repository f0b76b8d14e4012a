"""ArviZ's diagnostics of draws, where their conditions hold.

One point (a MAP) is not a sample: every diagnostic here asks for draws and says so where there are
none. What is computed from draws of an approximation says something about the approximation, not
about the exact posterior; ``attrs["approximation"]`` names it.
"""

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from pyro_bayesprune.diagnostics._arviz import InferenceData, az
from pyro_bayesprune.diagnostics.thresholds import GOOD_K, GOOD_SENSITIVITY

MIN_DRAWS = 4
STUCK = 999.0
EQUAL = 1e-6  # nats: draws that agree so closely on an example weigh the same without it


def check_draws(idata: InferenceData) -> None:
    """Raise a ValueError for a single point: diagnostics of a sample need a sample."""
    if not hasattr(idata, "posterior") or idata.posterior.sizes.get("draw", 0) < MIN_DRAWS:
        raise ValueError(
            "this needs posterior draws: a MAP is one point, of which there is no rhat, ESS or "
            "LOO. Draw with diagnostics.posterior_draws(fit, data, method=...) first"
        )


def _check_group(idata: InferenceData, group: str) -> None:
    check_draws(idata)
    if not hasattr(idata, group):
        raise ValueError(f"the InferenceData has no group {group!r}")


def summary(idata: InferenceData) -> pd.DataFrame:
    """Return mean, sd, MCSE, rhat and ESS of every quantity in ``posterior``.

    rhat (Vehtari et al., 2021) compares chains: it is NaN for a Laplace approximation's draws,
    which are independent by construction. A network's single weights may fail it by symmetry
    while its log joint and its predictions pass: judge by those.

    Raises:
        ValueError: without draws.
    """
    check_draws(idata)
    chains, draws = idata.posterior.sizes["chain"], idata.posterior.sizes["draw"]
    independent = bool(idata.attrs.get("independent_draws"))
    if chains < 2 and not independent:
        raise ValueError("chains are judged by comparing them: rhat needs two or more, got one")
    with warnings.catch_warnings():
        # Quantities that are constant, in all chains or, where chains are stuck, in each of them
        warnings.filterwarnings("ignore", "invalid value|divide by zero", RuntimeWarning)
        kind = "stats" if independent else "all"
        table = az.summary(idata, kind=kind, stat_focus="mean", round_to="none")
    if independent:
        count = float(chains * draws)
        table = table.assign(r_hat=math.nan, ess_bulk=count, ess_tail=count)
        table["mcse_mean"] = table["sd"] / math.sqrt(count)
    return table[["mean", "sd", "mcse_mean", "r_hat", "ess_bulk", "ess_tail"]].astype(float)


def convergence(idata: InferenceData) -> dict[str, Any]:
    """Return the worst rhat and ESS of log joint, predictions and weights, and divergences."""
    table = summary(idata)
    groups = table.index.str.extract(r"^(\w+)")[0].to_numpy()
    found: dict[str, Any] = {}
    for name, part in table.groupby(groups):
        found[f"rhat_{name}"] = _number(part["r_hat"].max())
        found[f"ess_{name}"] = _number(part[["ess_bulk", "ess_tail"]].min().min())
    diverging = idata.sample_stats.get("diverging")
    found["divergences"] = None if diverging is None else int(diverging.sum())
    return found


def _number(value: float) -> float | None:
    """JSON has no infinity, the rhat of chains that are stuck in different places."""
    return None if math.isnan(value) else min(float(value), STUCK)


def loo(idata: InferenceData) -> Any:  # noqa: ANN401  (arviz.ELPDData)
    """Return PSIS-LOO (Vehtari, Gelman and Gabry, 2017) with Pareto k of each example.

    A k above 0.7 says that leaving the example out changes the posterior too much for importance
    sampling: its part of the estimate is not to be trusted. Where all draws give an example the
    same likelihood there is no tail to fit; its weights are equal and k is set to 0. Independent
    draws have a relative efficiency of 1.

    Raises:
        ValueError: without draws or log likelihoods.
    """
    _check_group(idata, "log_likelihood")
    reff = 1.0 if idata.attrs.get("independent_draws") else None
    with warnings.catch_warnings():
        # Told by the table of k, which comes with every result
        warnings.filterwarnings("ignore", "Estimated shape parameter of Pareto", UserWarning)
        # from equal weights
        warnings.filterwarnings("ignore", "invalid value|divide by zero", RuntimeWarning)
        found = az.loo(idata, pointwise=True, var_name="obs", reff=reff)
    by_draw = idata.log_likelihood["obs"]
    spread = by_draw.max(("chain", "draw")) - by_draw.min(("chain", "draw"))
    found["pareto_k"] = found.pareto_k.where(spread > EQUAL, 0.0)
    found["warning"] = bool((found.pareto_k > GOOD_K).any())
    return found


def pareto_table(found: Any) -> pd.DataFrame:  # noqa: ANN401
    """Return how many examples have a good, bad and very bad Pareto k."""
    k = np.asarray(found.pareto_k)
    edges = [-np.inf, GOOD_K, 1.0, np.inf]
    counts = [
        int(((k > low) & (k <= high)).sum()) for low, high in zip(edges, edges[1:], strict=False)
    ]
    words = ["good (k at most 0.7)", "bad (0.7 to 1)", "very bad (above 1)"]
    return pd.DataFrame({"pareto_k": words, "examples": counts, "share": np.divide(counts, len(k))})


def compare(named: Mapping[str, InferenceData]) -> pd.DataFrame:
    """Return ArviZ's comparison of expected log predictive densities, best first.

    Raises:
        ValueError: for fewer than two, without draws, for different examples, or for draws from
            different approximations: then their errors would be compared, not the networks.
    """
    if len(named) < 2:
        raise ValueError(f"a comparison needs two or more networks, got {len(named)}")
    for idata in named.values():
        _check_group(idata, "log_likelihood")
    first, *others = named.values()
    if not all(_same_examples(first, other) for other in others):
        raise ValueError("networks can be compared on the same examples of the same data only")
    if len({idata.attrs.get("approximation") for idata in named.values()}) > 1:
        raise ValueError("networks can be compared by draws of the same approximation only")
    found = {name: loo(idata) for name, idata in named.items()}
    with warnings.catch_warnings():
        # ArviZ 0.23 sorts in place, which pandas 3 deprecates
        warnings.filterwarnings("ignore", "The inplace keyword", DeprecationWarning)
        warnings.filterwarnings("ignore", "The inplace keyword", FutureWarning)
        return az.compare(found, ic="loo")


def _same_examples(one: InferenceData, other: InferenceData) -> bool:
    return bool(one.observed_data["obs"].identical(other.observed_data["obs"]))


def power_scaling(idata: InferenceData) -> pd.DataFrame:
    """Return how strongly norms and predictions react to the prior and to the likelihood.

    Power-scaling sensitivity (Kallioinen et al., 2023): above 0.05 the quantity reacts. Prior and
    likelihood: they pull in different directions. Prior alone: the data say little. It reweights
    the draws; where a Pareto k of those weights is above 0.7, as for draws far from the
    posterior's, the diagnosis says that there is none.

    Raises:
        ValueError: without draws or log priors.
    """
    _check_group(idata, "log_prior")
    total = idata.sample_stats["lp"] - idata.log_prior.to_array().sum("variable")
    scaled = az.InferenceData(
        posterior=idata.posterior.drop_vars(["weight", "log_joint"]),
        log_prior=xr.Dataset({"prior": idata.log_prior.to_array().sum("variable")}),
        log_likelihood=xr.Dataset({"total": total}),
    )
    components = ("prior", "likelihood")
    table = pd.DataFrame({c: _flat(az.psens(scaled, component=c)) for c in components})
    reacts = table > GOOD_SENSITIVITY
    table["diagnosis"] = "-"
    table.loc[reacts["prior"] & reacts["likelihood"], "diagnosis"] = "possible prior-data conflict"
    table.loc[reacts["prior"] & ~reacts["likelihood"], "diagnosis"] = "prior strong, data weak"
    k = max(_reweighting_k(scaled.log_prior["prior"]), _reweighting_k(total))
    if k > GOOD_K:
        table["diagnosis"] = f"none: reweighting fails (Pareto k {k:.1f})"
    return table


def _reweighting_k(log_component: xr.DataArray) -> float:
    """The worse Pareto k of the weights that scale a log density by 1.01 or its inverse."""
    values = log_component.stack(__sample__=("chain", "draw"))  # ArviZ's own name
    return max(float(az.psislw(power * values)[1]) for power in (0.01, 1 / 1.01 - 1))


def _flat(values: xr.Dataset) -> dict[str, float]:
    """Return the entries of every variable as one dictionary, named as in `summary`."""
    found = {}
    for name, array in values.items():
        for key in np.ndindex(array.shape):
            labels = [str(array[d].to_numpy()[i]) for d, i in zip(array.dims, key, strict=True)]
            found[f"{name}[{', '.join(labels)}]" if labels else str(name)] = float(array[key])
    return found


def trace_frame(idata: InferenceData, name: str = "log_joint") -> pd.DataFrame:
    """Return one quantity of ``posterior`` as a frame (chain, draw, value); the first element."""
    check_draws(idata)
    array = idata.posterior[name]
    array = array.isel({d: 0 for d in array.dims if d not in ("chain", "draw")})
    return array.to_series().rename("value").reset_index()[["chain", "draw", "value"]]


def frequencies(idata: InferenceData, num_classes: int) -> pd.DataFrame:
    """Return class frequencies: observed, under the posterior predictive and under the prior's."""
    check_draws(idata)
    groups = {"observed": "observed_data", "posterior": "posterior_predictive"}
    groups["prior"] = "prior_predictive"
    found = {}
    for name, group in groups.items():
        if hasattr(idata, group):
            classes = idata[group]["obs"].to_numpy().ravel().astype(int)
            found[name] = np.bincount(classes, minlength=num_classes) / len(classes)
    return pd.DataFrame(found).rename_axis("class").reset_index()
