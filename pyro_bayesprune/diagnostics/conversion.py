"""Conversion of posterior draws to ArviZ ``InferenceData``, and its file."""

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
from pyro_bayesprune.inference import draw_predictions
from pyro_bayesprune.inference.draw_predictions import draw_outputs
from pyro_bayesprune.inference.draws import Draws, log_prior
from pyro_bayesprune.models.module import BayesianModule

FILE = "posterior.nc"
PROBES = 16  # examples with a traced predicted probability
WEIGHTS = 50  # traced weights
UNITS = {"log_joint": "nats", "probability": "1"}
UNITS |= dict.fromkeys(("layer_norm", "weight"), "units of the weights")
APPROXIMATIONS = {
    "laplace": "Laplace, diagonal GGN, linearised network",
    "last_layer_laplace": "Laplace, Kronecker-factored GGN of the last layer, "
    "given the other layers' weights",
    "last_layer_nuts": "exact for the last layer, given the other layers' weights",
    "nuts": "exact, given the masks",
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
    """Return posterior draws as InferenceData.

    Groups: ``posterior`` (log joint, norm of each layer, some weights, some predicted
    probabilities), ``sample_stats``, ``log_prior``, ``log_likelihood``, ``posterior_predictive``
    and ``observed_data`` (training examples, which LOO leaves out), ``prior_predictive``,
    ``predictions`` (test examples), ``pruning_history`` (epoch, layer). Log densities are in nats.

    Args:
        draws: the result of `inference.samplers.posterior_draws`.
        data: all training data, and test data for ``predictions``.
        history: a row for each epoch, as in `Fit.history`.
        config: settings for the attributes.
        examples: maximal number of training (and of test) examples in the groups with one value
            for each example. They are chosen at random. LOO refers to them, given all data.
        prior_draws: number of draws of the prior predictive.
        seed: seed of the chosen examples and the sampled classes.
    """
    rows = choose_examples(data.num_train, examples, seed, "train")
    x, y = data.train_x[rows], data.train_y[rows]
    outputs = draw_outputs(draws, x)
    # In float64: Pareto k cannot be estimated from tied log likelihoods.
    by_example = draw_predictions.log_likelihood(draws.model, outputs.double(), y)
    priors, log_joint = log_prior(draws), draws.log_density
    if draws.independent:  # the density of a Laplace approximation is not the joint density
        total = by_example.sum(-1) * data.num_train / len(y)
        log_joint = torch.stack(list(priors.values())).sum(0) + total / draws.temperature
    groups = {
        "posterior": _posterior(draws, data, log_joint),
        "sample_stats": _numpy({"lp": log_joint, **draws.stats}),
        "posterior_predictive": {"obs": _sampled_targets(draws.model, outputs, seed)},
        "observed_data": {"obs": y.numpy()},
    }
    if prior_draws:
        obs = draw_predictions.prior_predictive(draws.model, x, draws=prior_draws, seed=seed)
        groups["prior_predictive"] = {"obs": _compact_classes(obs)[None]}
    coords = {"example": rows.numpy(), "probe": np.arange(len(_probes(data)))}
    names = {"layer": list(draws.index), "weight_name": _traced_weights(draws)[1]}
    dims = {"obs": ["example", *_target_dims(y)], "layer_norm": ["layer"]}
    dims |= {"weight": ["weight_name"], "probability": ["probe"]}
    idata = az.from_dict(**groups, coords=coords | names, dims=dims)
    by_draw = {name: (("chain", "draw"), value.numpy()) for name, value in priors.items()}
    idata.add_groups(log_prior=xr.Dataset(by_draw))  # `from_dict` does not support this group
    likelihoods = {"obs": (("chain", "draw", "example"), by_example.numpy())}
    idata.add_groups(log_likelihood=xr.Dataset(likelihoods, {"example": rows.numpy()}))
    _add_predictions(idata, draws, data, examples, seed)
    if history is not None:
        _add_history(idata, history)
    _add_attributes(idata, draws, data.num_train, config or {})
    return idata


def choose_examples(total: int, examples: int, seed: int, purpose: str) -> Tensor:
    """Return the sorted positions of random examples; of all examples if there are not enough."""
    order = torch.randperm(total, generator=random_stream(seed, f"{purpose} examples"))
    return order[:examples].sort().values


def _target_dims(y: Tensor) -> list[str]:
    """Return names for the dimensions of one target; none for a class or a single number."""
    return [f"target_dim_{i}" for i in range(y.dim() - 1)]


def _numpy(values: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in values.items()}


def _compact_classes(values: Tensor) -> np.ndarray:
    """Return classes as int8 to save memory, and other values unchanged."""
    array = values.numpy()
    return array.astype(np.int8) if array.dtype == np.int64 and array.max() < 128 else array


def _probes(data: Dataset) -> Tensor:
    """Return the first test inputs, or the first training inputs if there is no test part."""
    return (data.train_x if data.test_x is None else data.test_x)[:PROBES]


def _traced_weights(draws: Draws) -> tuple[Tensor, list[str]]:
    """Return the positions and names of some drawn weights, evenly spaced over the layers."""
    names = [
        f"{site}[{', '.join(map(str, np.unravel_index(int(i), draws.weights[site].shape)))}]"
        for site, index in draws.index.items()
        for i in index
    ]
    positions = torch.linspace(0, len(names) - 1, min(WEIGHTS, len(names))).round().long().unique()
    return positions, [names[i] for i in positions]


def _posterior(draws: Draws, data: Dataset, log_joint: Tensor) -> dict[str, np.ndarray]:
    parts = draws.values.split([len(i) for i in draws.index.values()], -1)
    quantities = {
        "log_joint": log_joint,
        "layer_norm": torch.stack([part.double().norm(dim=-1) for part in parts], -1),
        "weight": draws.values[..., _traced_weights(draws)[0]],
    }
    if not data.train_y.is_floating_point():  # the probability of the class that the MAP predicts
        classes = draws.model.outputs(draws.weights, _probes(data)).argmax(-1)
        probabilities = draw_outputs(draws, _probes(data)).softmax(-1)
        index = classes.expand(*probabilities.shape[:2], -1)[..., None]
        quantities["probability"] = probabilities.gather(-1, index)[..., 0]
    return _numpy(quantities)


def _sampled_targets(model: BayesianModule, outputs: Tensor, seed: int) -> np.ndarray:
    """Return one sampled target for each draw and example (chains, draws, n)."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        flat = torch.stack([model.likelihood(out).sample() for out in outputs.flatten(0, 1)])
    return _compact_classes(flat.view(*outputs.shape[:2], *flat.shape[1:]))


def _add_predictions(idata: Any, draws: Draws, data: Dataset, examples: int, seed: int) -> None:  # noqa: ANN401
    if data.test_x is None or data.test_y is None:
        return
    rows = choose_examples(len(data.test_x), examples, seed, "test")
    dims, coords = ("test_example", *_target_dims(data.test_y)), {"test_example": rows.numpy()}
    obs = _sampled_targets(draws.model, draw_outputs(draws, data.test_x[rows]), seed)
    idata.add_groups(predictions=xr.Dataset({"obs": (("chain", "draw", *dims), obs)}, coords))
    labels = xr.Dataset({"label": (dims, data.test_y[rows].numpy())})
    idata.add_groups(predictions_constant_data=labels)


def _add_history(idata: InferenceData, history: pd.DataFrame) -> None:
    """Add the pruning history: a value for each epoch, and the sparsity by epoch and layer."""
    columns = [str(column) for column in history]
    layers = [c.removeprefix("sparsity/") for c in columns if c.startswith("sparsity/")]
    group = xr.Dataset(coords={"epoch": history["epoch"].to_numpy(), "pruned_layer": layers})
    others = [c for c in columns if not c.startswith("sparsity/") and c not in ("epoch", "tried")]
    for name, values in history[others].items():
        is_number = values.dtype.kind in "iuf"
        array = values.to_numpy() if is_number else values.astype(str).to_numpy(str)
        group[name] = ("epoch", array)
    by_layer = history[[f"sparsity/{layer}" for layer in layers]].to_numpy(float)
    group["layer_sparsity"] = ("epoch", "pruned_layer"), by_layer
    for name in ("log_bf", "log_threshold", "train_loss"):
        if name in group:
            group[name].attrs["units"] = "nats"
    idata.add_groups(pruning_history=group, warn_on_custom_groups=False)


def _add_attributes(idata: InferenceData, draws: Draws, num_train: int, config: Mapping) -> None:
    total = "estimated from the chosen examples" if draws.independent else "exact"
    versions = {package: version(package) for package in ("pyro-bayesprune", "pyro-ppl", "arviz")}
    idata.attrs.update(
        method=draws.method,
        approximation=APPROXIMATIONS[draws.method],
        independent_draws=int(draws.independent),
        surviving_weights_drawn=draws.values.shape[-1],
        drawn_sites=list(draws.index),
        num_train=num_train,
        log_likelihood_examples=idata.log_likelihood.sizes["example"],
        log_likelihood_total=total,
        temperature=draws.temperature,
        config=json.dumps(dict(config), sort_keys=True),
        versions=json.dumps(versions),
        seconds=draws.seconds,
    )
    for name, unit in UNITS.items():
        if name in idata.posterior:
            idata.posterior[name].attrs["units"] = unit
    idata.log_likelihood["obs"].attrs["units"] = "nats"


def save(idata: InferenceData, path: str | Path) -> None:
    """Write InferenceData atomically as compressed NetCDF (HDF5), followed by its SHA-256.

    HDF5 readers ignore the bytes after the stated end of the file.
    """
    with tempfile.TemporaryDirectory() as folder:
        idata.to_netcdf(str(Path(folder) / FILE), engine="h5netcdf")
        content = (Path(folder) / FILE).read_bytes()
    files.write_atomically(files.path_of(path), files.with_checksum(content))


def load(path: str | Path) -> InferenceData:
    """Return the InferenceData that `save` wrote, in memory.

    Raises:
        ValueError: if the file is damaged or is not such a NetCDF file.
    """
    try:
        path = files.path_of(path)
        files.without_checksum(path.read_bytes())
        idata = az.from_netcdf(str(path), engine="h5netcdf")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not InferenceData in a NetCDF file: {error}") from None
    return idata.load()
