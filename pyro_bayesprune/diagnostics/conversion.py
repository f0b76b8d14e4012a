"""Draws as ArviZ ``InferenceData``, and its file."""

import json
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from pyro_bayesprune._utils import files
from pyro_bayesprune._utils.random import random_stream
from pyro_bayesprune.data.dataset import Dataset
from pyro_bayesprune.diagnostics._arviz import InferenceData, az
from pyro_bayesprune.inference.draw_predictions import (
    draw_outputs,
    log_likelihood,
    prior_predictive,
)
from pyro_bayesprune.inference.draws import Draws, log_prior
from pyro_bayesprune.models.module import BayesianModule

FILE = "posterior.nc"
PROBES = 16  # examples whose predicted probability is followed through the chains
WEIGHTS = 50  # weights that are kept one by one
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
    files.write_atomically(Path(path), files.with_checksum(content))


def load(path: str | Path) -> InferenceData:
    """Return what `save` wrote, in memory.

    Raises:
        ValueError: if the file is damaged or not such a NetCDF file.
    """
    try:
        files.without_checksum(Path(path).read_bytes())
        idata = az.from_netcdf(str(path), engine="h5netcdf")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not InferenceData in a NetCDF file: {error}") from None
    return idata.load()
