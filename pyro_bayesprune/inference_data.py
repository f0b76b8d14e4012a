"""Draws as ArviZ ``InferenceData``, and ArviZ's diagnostics where their conditions hold.

The only module that calls ArviZ. One point (a MAP) is not a sample: every diagnostic here asks for
draws and says so where there are none. What is computed from draws of an approximation says
something about the approximation, not about the exact posterior; ``attrs["approximation"]`` names
it.
"""

import hashlib
import json
import math
import tempfile
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyro_bayesprune import runs
from pyro_bayesprune.data import Dataset, random_stream
from pyro_bayesprune.draws import (
    Draws,
    draw_outputs,
    log_likelihood,
    log_prior,
    prior_predictive,
)
from pyro_bayesprune.model import BayesianModule

with warnings.catch_warnings():
    # Once a day ArviZ 0.23 announces its next major version, which we do not support yet.
    warnings.filterwarnings("ignore", r"\s*ArviZ is undergoing", FutureWarning)
    import arviz as az
import xarray as xr

InferenceData = Any  # arviz.InferenceData; ArviZ is untyped

FILE = "posterior.nc"
PROBES = 16  # examples whose predicted probability is followed through the chains
WEIGHTS = 50  # weights that are kept one by one
MIN_DRAWS = 4
GOOD_RHAT, GOOD_ESS, GOOD_K, GOOD_SENSITIVITY = 1.01, 400, 0.7, 0.05
STUCK = 999.0
EQUAL = 1e-6  # nats: draws that agree so closely on an example weigh the same without it
UNITS = {
    "log_joint": "nats",
    "layer_norm": "units of the weights",
    "weight": "units of the weights",
    "probability": "1",
}


def to_arviz(
    draws: Draws,
    data: Dataset,
    *,
    history: pd.DataFrame | None = None,
    config: Mapping[str, Any] | None = None,
    examples: int = 2000,
    prior_draws: int = 20,
    seed: int = 0,
) -> InferenceData:
    """Return draws as InferenceData.

    Groups: ``posterior`` (log joint, norm of each layer, some weights, some predicted
    probabilities), ``sample_stats``, ``log_prior``, ``log_likelihood``, ``posterior_predictive``
    and ``observed_data`` (training examples: LOO leaves those out), ``prior_predictive``,
    ``predictions`` (test examples), ``pruning_history`` (epoch, layer).

    Args:
        draws: of `diagnostics.posterior_draws`.
        data: training data (all N), and a test part for ``predictions``.
        history: a row an epoch, as in `Fit.history`.
        config: settings that go into the attributes.
        examples: how many training (and test) examples the groups by example hold, chosen at
            random; all where there are fewer. LOO is then that of these examples, given all data.
        prior_draws: draws of the prior predictive.
        seed: of the choices and the sampled classes.
    """
    rows = chosen(data.num_train, examples, seed, "train")
    x, y = data.train_x[rows], data.train_y[rows]
    outputs = draw_outputs(draws, x)
    by_example = log_likelihood(draws.model, outputs.double(), y)  # float32: ties, no tail for k
    priors = log_prior(draws)
    prior = torch.stack(list(priors.values())).sum(0)
    exact = not draws.independent  # for Laplace the density drawn from is not the log joint
    likelihood = (
        draws.log_density - prior if exact else by_example.sum(-1) * data.num_train / len(y)
    )
    obs = prior_predictive(draws.model, x, draws=prior_draws, seed=seed) if prior_draws else None
    idata = az.from_dict(
        posterior=_posterior(draws, data, prior + likelihood),
        sample_stats=_numpy({"lp": prior + likelihood, **draws.stats}),
        log_likelihood={"obs": by_example.numpy()},
        posterior_predictive={"obs": _sampled(draws.model, outputs, seed)},
        observed_data={"obs": y.numpy()},
        prior_predictive=None if obs is None else {"obs": _small(obs)[None]},
        coords={
            "example": rows.numpy(),
            "layer": list(draws.index),
            "weight_name": _chosen_weights(draws)[1],
            "probe": _probes(data).numpy(),
        },
        dims={
            "obs": ["example"],
            "layer_norm": ["layer"],
            "weight": ["weight_name"],
            "probability": ["probe"],
        },
    )
    by_draw = {n: (("chain", "draw"), value.numpy()) for n, value in priors.items()}
    idata.add_groups(log_prior=xr.Dataset(by_draw))  # from_dict has no such group
    _add_predictions(idata, draws, data, examples, seed)
    _add_history(idata, history)
    _describe(idata, draws, data, config, len(y), exact)
    return idata


def chosen(total: int, examples: int, seed: int, purpose: str) -> Tensor:
    """Return the positions, in order, of as many examples chosen at random (all if fewer)."""
    order = torch.randperm(total, generator=random_stream(seed, f"{purpose} examples"))
    return order[:examples].sort().values


def _numpy(values: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in values.items()}


def _small(values: Tensor) -> np.ndarray:
    """Classes as one byte each; anything else as it is."""
    found = values.numpy()
    return found.astype(np.int8) if found.dtype == np.int64 and found.max() < 128 else found


def _probes(data: Dataset) -> Tensor:
    """The first test examples, or training examples where there are none: any will do."""
    return torch.arange(min(PROBES, len(_probe_inputs(data))))


def _probe_inputs(data: Dataset) -> Tensor:
    return data.train_x if data.test_x is None else data.test_x


def _chosen_weights(draws: Draws) -> tuple[Tensor, list[str]]:
    """Positions and names of the weights that are kept one by one, evenly over the layers."""
    names = [
        f"{site}[{', '.join(map(str, np.unravel_index(int(i), draws.weights[site].shape)))}]"
        for site, index in draws.index.items()
        for i in index
    ]
    positions = torch.linspace(0, len(names) - 1, min(WEIGHTS, len(names))).round().long().unique()
    return positions, [names[i] for i in positions]


def _posterior(draws: Draws, data: Dataset, log_joint: Tensor) -> dict[str, np.ndarray]:
    parts = draws.values.split([len(i) for i in draws.index.values()], -1)
    found = {
        "log_joint": log_joint,
        "layer_norm": torch.stack([part.double().norm(dim=-1) for part in parts], -1),
        "weight": draws.values[..., _chosen_weights(draws)[0]],
    }
    outputs = draw_outputs(draws, _probe_inputs(data)[_probes(data)])
    if not data.train_y.is_floating_point():
        likeliest = draws.model.outputs(draws.weights, _probe_inputs(data)[_probes(data)]).argmax(
            -1
        )
        probabilities = outputs.softmax(-1)
        where = likeliest.expand(*probabilities.shape[:2], -1)[..., None]
        found["probability"] = probabilities.gather(-1, where)[..., 0]
    return _numpy({name: value.detach() for name, value in found.items()})


def _sampled(model: BayesianModule, outputs: Tensor, seed: int) -> np.ndarray:
    """Targets sampled under every draw (chains, draws, n)."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        flat = torch.stack([model.likelihood(out).sample() for out in outputs.flatten(0, 1)])
    return _small(flat.view(*outputs.shape[:2], *flat.shape[1:]))


def _add_predictions(
    idata: InferenceData, draws: Draws, data: Dataset, examples: int, seed: int
) -> None:
    if data.test_x is None or data.test_y is None:
        return
    rows = chosen(len(data.test_x), examples, seed, "test")
    obs = xr.DataArray(
        _sampled(draws.model, draw_outputs(draws, data.test_x[rows]), seed),
        dims=("chain", "draw", "test_example"),
        coords={"test_example": rows.numpy()},
    )
    labels = xr.DataArray(data.test_y[rows].numpy(), dims="test_example")
    idata.add_groups(predictions=xr.Dataset({"obs": obs}))
    idata.add_groups(predictions_constant_data=xr.Dataset({"label": labels}))


def _add_history(idata: InferenceData, history: pd.DataFrame | None) -> None:
    """The pruning history as a group: a value an epoch, sparsity by epoch and layer."""
    if history is None:
        return
    columns = [str(column) for column in history]
    layers = [c.removeprefix("sparsity/") for c in columns if c.startswith("sparsity/")]
    group = xr.Dataset(coords={"epoch": history["epoch"].to_numpy(), "pruned_layer": layers})
    for column in columns:
        if not column.startswith("sparsity/") and column not in ("epoch", "tried"):
            group[column] = ("epoch", _storable(history[column]))
    by_layer = history[[f"sparsity/{layer}" for layer in layers]].to_numpy(float)
    group["layer_sparsity"] = ("epoch", "pruned_layer"), by_layer
    for name, unit in (("log_bf", "nats"), ("log_threshold", "nats"), ("train_loss", "nats")):
        if name in group:
            group[name].attrs["units"] = unit
    idata.add_groups(pruning_history=group, warn_on_custom_groups=False)


def _storable(column: pd.Series) -> np.ndarray:
    """Numbers as they are; everything else as text."""
    numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    return column.to_numpy() if numeric else column.astype(str).to_numpy(dtype=str)


def _describe(
    idata: InferenceData,
    draws: Draws,
    data: Dataset,
    config: Mapping[str, Any] | None,
    examples: int,
    exact: bool,
) -> None:
    told = {
        "method": draws.method,
        "approximation": {
            "laplace": "Laplace, diagonal GGN, linearised network",
            "last_layer_laplace": "Laplace, Kronecker-factored GGN of the last layer, "
            "given the other layers' weights",
            "last_layer_nuts": "exact for the last layer, given the other layers' weights",
            "nuts": "exact, given the masks",
        }[draws.method],
        "independent_draws": int(draws.independent),
        "surviving_weights_drawn": draws.values.shape[-1],
        "drawn_sites": list(draws.index),
        "num_train": data.num_train,
        "log_likelihood_examples": examples,
        "log_likelihood_total": "exact" if exact else "estimated from the chosen examples",
        "config": json.dumps(dict(config or {}), sort_keys=True),
        "versions": json.dumps({p: version(p) for p in ("pyro-bayesprune", "pyro-ppl", "arviz")}),
        "seconds": draws.seconds,
    }
    idata.attrs.update(told)
    for name, unit in UNITS.items():
        if name in idata.posterior:
            idata.posterior[name].attrs["units"] = unit
    idata.log_likelihood["obs"].attrs["units"] = "nats"


def save(idata: InferenceData, path: str | Path) -> None:
    """Write NetCDF (HDF5, compressed), whole or not at all, with a SHA-256 behind.

    Readers of HDF5 leave out what stands behind the end that the file states.
    """
    with tempfile.TemporaryDirectory() as folder:
        idata.to_netcdf(str(Path(folder) / FILE), engine="h5netcdf")
        content = (Path(folder) / FILE).read_bytes()
    runs.write_atomically(Path(path), content + hashlib.sha256(content).digest())


def load(path: str | Path) -> InferenceData:
    """Return what `save` wrote, in memory.

    Raises:
        ValueError: if the file is damaged or not such a NetCDF file.
    """
    try:
        content = Path(path).read_bytes()
        if hashlib.sha256(content[: -runs.DIGEST_BYTES]).digest() != content[-runs.DIGEST_BYTES :]:
            raise ValueError("its checksum does not fit")
        idata = az.from_netcdf(str(path), engine="h5netcdf")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not InferenceData in a NetCDF file: {error}") from None
    return idata.load()


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
