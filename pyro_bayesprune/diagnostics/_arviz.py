"""ArviZ in one place: version 0.23 below Python 3.12, version 1 from Python 3.12.

The functions hide the differences between the two versions. Draws are `InferenceData` with 0.23 and
`xarray.DataTree` with 1. A file that one version wrote can be read by the other. This module
imports neither torch nor Pyro, so that draws can be analysed on a machine without them.
"""

import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import xarray as xr
from scipy.special import logsumexp

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", r"\s*ArviZ is undergoing", FutureWarning)
    import arviz as az

InferenceData = Any  # arviz.InferenceData or xarray.DataTree; ArviZ has no type annotations
VERSION = version("arviz")
SINCE_ONE = int(VERSION.partition(".")[0]) >= 1
DRAWS = ("chain", "draw")
SAMPLE = "__sample__"  # the stacked dimensions of draws
ENGINE = "h5netcdf"
T = TypeVar("T")
TINY = 1e-13
NEW_NAMES = {"elpd_loo": "elpd", "p_loo": "p", "loo_i": "elpd_i"}  # of 0.23, and of 1

if SINCE_ONE:
    from arviz_stats import ELPDDataLOO
    from arviz_stats.base import array_stats

    class Loo(ELPDDataLOO):
        """ArviZ's result of LOO, which has the names of version 0.23 too."""

        elpd_loo = property(lambda self: self.elpd)
        p_loo = property(lambda self: self.p)
        loo_i = property(lambda self: self.elpd_i)


def from_datasets(groups: Mapping[str, xr.Dataset], attrs: Mapping[str, Any]) -> InferenceData:
    """Return draws with these groups and attributes."""
    if not SINCE_ONE:
        return az.InferenceData(attrs=dict(attrs), warn_on_custom_groups=False, **groups)
    tree = xr.DataTree.from_dict(dict(groups))
    tree.attrs.update(attrs)
    return tree


def groups(idata: InferenceData) -> list[str]:
    """Return the names of the groups."""
    return list(idata.children) if SINCE_ONE else list(idata.groups())


def group(idata: InferenceData, name: str) -> xr.Dataset:
    """Return a group as a dataset."""
    return idata[name].to_dataset() if SINCE_ONE else idata[name]


def write(idata: InferenceData, path: Path) -> None:
    """Write draws to a NetCDF file (HDF5)."""
    idata.to_netcdf(str(path), engine=ENGINE)


def read(path: Path) -> InferenceData:
    """Return the draws in a NetCDF file, in memory."""
    if not SINCE_ONE:
        return az.from_netcdf(str(path), engine=ENGINE).load()
    with xr.open_datatree(path, engine=ENGINE) as tree:
        return tree.load()


def summary(idata: InferenceData, kind: str) -> pd.DataFrame:
    """Return ArviZ's summary with unrounded numbers.

    Args:
        idata: draws.
        kind: ``"all"``, or ``"stats"`` without diagnostics of chains.
    """
    focus = {} if SINCE_ONE else {"stat_focus": "mean"}
    return az.summary(idata, kind=kind, round_to="none", **focus)


def psis(log_ratios: xr.DataArray, reff: float) -> tuple[np.ndarray, np.ndarray]:
    """Return Pareto-smoothed log weights and the Pareto k of importance ratios.

    Args:
        log_ratios: log ratios, of which the last dimension is that of the draws.
        reff: number of effective draws divided by the number of draws.

    Returns:
        The normalised log weights, in the shape of the ratios, and k without the last dimension.
    """
    if not SINCE_ONE:
        weights, k = az.psislw(log_ratios, reff)
        return np.asarray(weights), np.asarray(k)
    ratios = -log_ratios.to_numpy()  # ArviZ 1 takes minus the log ratios
    try:
        return array_stats.psislw(ratios, r_eff=reff)
    except ValueError:  # a tail of equal values
        ramp = np.linspace(0.0, TINY, ratios.shape[-1])
        return array_stats.psislw(ratios + ramp * np.maximum(1.0, np.abs(ratios)), r_eff=reff)


def loo(
    idata: InferenceData,
    *,
    reff: float | None,
    temperature: float = 1.0,
    log_ratio: xr.DataArray | None = None,
) -> Any:  # noqa: ANN401  (arviz.ELPDData)
    """Return PSIS-LOO of the site ``obs``, example by example, as ArviZ's result.

    Args:
        idata: draws with log likelihoods.
        reff: number of effective draws divided by the number of draws, or None to estimate it.
        temperature: T of the posterior p(D|w)^(1/T) p(w). The weights p(y|w)^(-1/T) leave an
            example out, and p(y|w) is predicted.
        log_ratio: log p - log q of each draw, where the draws are from an approximation q of the
            posterior p. The weights of the draws are then p/q times those that leave an example
            out (Magnusson et al., 2019; `loo_approximate_posterior` of ArviZ 1).
    """
    idata, result = _with_tails(
        lambda draws: az.loo(draws, pointwise=True, var_name="obs", reff=reff), idata
    )
    values = dict(vars(result) if SINCE_ONE else result)
    if temperature != 1 or log_ratio is not None:
        by_draw = group(idata, "log_likelihood")["obs"]
        values |= _leave_one_out(by_draw, temperature, log_ratio, reff or 1.0)
    return _result(values)


def _with_tails(
    smooth: Callable[[InferenceData], T], idata: InferenceData
) -> tuple[InferenceData, T]:
    """Return draws for which ArviZ can smooth importance weights, and the result.

    ArviZ 1 cannot fit a tail of equal values. They occur if all draws are sure of an example, and
    if a chain does not move. Then log densities get a ramp over the draws of a relative 1e-13.
    """
    try:
        return idata, smooth(idata)
    except ValueError as error:
        if "tail values" not in str(error):
            raise
    parts = {name: group(idata, name) for name in groups(idata)}
    for name in {"log_likelihood", "log_prior"} & set(parts):
        parts[name] = parts[name].map(_ramped)
    idata = from_datasets(parts, idata.attrs)
    return idata, smooth(idata)


def _ramped(values: xr.DataArray) -> xr.DataArray:
    sizes = [values.sizes[name] for name in DRAWS]
    ramp = xr.DataArray(np.linspace(0.0, TINY, sizes[0] * sizes[1]).reshape(sizes), dims=DRAWS)
    return (values + ramp * np.maximum(1.0, np.abs(values))).transpose(*values.dims)


def _leave_one_out(
    by_draw: xr.DataArray, temperature: float, log_ratio: xr.DataArray | None, reff: float
) -> dict[str, Any]:
    """The values of LOO, by the names of ArviZ 0.23."""
    others = [name for name in by_draw.dims if name not in DRAWS]
    stacked = by_draw.stack({SAMPLE: DRAWS}).transpose(*others, SAMPLE)
    log_ratios = -stacked / temperature
    if log_ratio is not None:
        log_ratios = log_ratios + (log_ratio - log_ratio.max()).stack({SAMPLE: DRAWS})
    log_weights, k = psis(log_ratios, reff)
    pointwise = logsumexp(log_weights + stacked.to_numpy(), axis=-1)
    lppd = (logsumexp(stacked.to_numpy(), axis=-1) - np.log(stacked.sizes[SAMPLE])).sum()
    empty = by_draw.isel(dict.fromkeys(DRAWS, 0), drop=True)
    return {
        "elpd_loo": float(pointwise.sum()),
        "se": float(np.sqrt(pointwise.size * pointwise.var(ddof=int(SINCE_ONE)))),
        "p_loo": float(lppd - pointwise.sum()),
        "loo_i": empty.copy(data=pointwise),
        "pareto_k": empty.copy(data=k),
    }


def _result(values: Mapping[str, Any]) -> Any:  # noqa: ANN401
    if not SINCE_ONE:
        return az.ELPDData(pd.Series(values, dtype=object))
    return Loo(**{NEW_NAMES.get(name, name): value for name, value in values.items()})


def with_pareto_k(result: Any, k: xr.DataArray, limit: float) -> Any:  # noqa: ANN401
    """Return a result of `loo` with other values of k; it warns if one is above the limit."""
    values = dict(vars(result) if SINCE_ONE else result)
    return _result(values | {"pareto_k": k, "warning": bool((k > limit).any())})


def compare(results: Mapping[str, Any]) -> pd.DataFrame:
    """Return ArviZ's comparison of results of `loo`, best first, with the columns of 0.23."""
    if SINCE_ONE:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning)  # large k are in a column
            table = az.compare(dict(results), round_to="none")
        old = {new: name for name, new in NEW_NAMES.items()}
        warns = [bool(results[name].warning) for name in table.index]
        return table.rename(columns=old).assign(elpd_diff=-table["elpd_diff"], warning=warns)
    with warnings.catch_warnings():
        # ArviZ 0.23 sorts in place, which pandas 3 deprecates.
        warnings.filterwarnings("ignore", "The inplace keyword")
        return az.compare(dict(results), ic="loo")


def power_scaling(idata: InferenceData, component: str) -> xr.Dataset:
    """Return the power-scaling sensitivity to ``"prior"`` or ``"likelihood"``."""
    if SINCE_ONE:
        return _with_tails(lambda draws: az.psense(draws, group=component), idata)[1]
    return az.psens(idata, component=component)
