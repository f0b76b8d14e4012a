"""Conversion of posterior draws to ArviZ's ``InferenceData`` or ``DataTree``, and its file."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from pyro_bayesprune._utils import files
from pyro_bayesprune._utils.random import choose_examples, forked_rng
from pyro_bayesprune.data.dataset import Dataset
from pyro_bayesprune.data.inputs import Inputs
from pyro_bayesprune.data.inputs import examples as at
from pyro_bayesprune.data.loading import as_batches
from pyro_bayesprune.diagnostics import _arviz
from pyro_bayesprune.diagnostics._arviz import DRAWS, InferenceData
from pyro_bayesprune.inference import draw_predictions
from pyro_bayesprune.inference.draw_predictions import CHUNK, only_last_layer
from pyro_bayesprune.inference.draws import Draws, log_prior
from pyro_bayesprune.inference.prediction import target_distributions
from pyro_bayesprune.inference.targets import mean, probabilities

FILE = "posterior.nc"
PROBES = 16  # examples with a traced predicted probability
WEIGHTS = 50  # traced weights
UNITS = {"log_joint": "nats", "probability": "1", "prediction": "units of the targets"}
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
    """Return posterior draws as InferenceData (ArviZ 0.23), or as a DataTree (ArviZ 1).

    Groups: ``posterior`` (log joint, norm of each layer or site, some weights, and for some
    examples the probability of the predicted class or the mean of the target), ``sample_stats``,
    ``log_prior``, ``log_likelihood``, ``posterior_predictive`` and ``observed_data`` (training
    examples, which LOO leaves out), ``prior_predictive``, ``predictions`` (test examples),
    ``pruning_history`` (epoch, layer). Log densities are in nats.

    ``sample_stats`` has the log joint ``lp``; for NUTS the energy (minus the log density plus the
    kinetic energy) and the divergences; for a Laplace approximation its own log density ``log_q``,
    with which `statistics.loo` corrects for the approximation. ``log_q`` is left out if the log
    joint over all training examples would need one pass over them for each draw, that is, for more
    than ``examples`` training examples and draws that are not only from the last layer.

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
    data = data.to(draws.values.device)
    rows = choose_examples(data.num_train, examples, seed, "train")
    x, y = at(data.train_x, rows), data.train_y[rows]
    # In float64: Pareto k cannot be estimated from tied log likelihoods.
    by_example = draw_predictions.log_likelihood(draws, x, y)
    priors, log_joint, exact = log_prior(draws, (x, y)), draws.log_density, True
    stats = dict(draws.stats)
    if draws.independent:  # the density of a Laplace approximation is not the joint density
        total, exact = _total(draws, data, by_example)
        log_joint = torch.stack(list(priors.values())).sum(0) + total / draws.temperature
        stats |= {"log_q": draws.log_density} if exact else {}
    example, targets = {"example": rows.numpy()}, ("example", *_target_dims(y))
    groups = {
        "posterior": _posterior(draws, data, log_joint),
        "sample_stats": _sampled({n: ((), v) for n, v in {"lp": log_joint, **stats}.items()}),
        "log_prior": _sampled({name: ((), value) for name, value in priors.items()}),
        "log_likelihood": _sampled({"obs": (("example",), by_example)}, example),
        "posterior_predictive": _sampled(
            {"obs": (targets, _sampled_targets(draws, x, seed))}, example
        ),
        "observed_data": xr.Dataset({"obs": (targets, y.cpu().numpy())}, example),
    }
    if prior_draws:
        obs = draw_predictions.prior_predictive(draws.model, x, draws=prior_draws, seed=seed)
        prior_obs = {"obs": (targets, _compact_classes(obs)[None])}
        groups["prior_predictive"] = _sampled(prior_obs, example)
    groups |= _predictions(draws, data, examples, seed)
    if history is not None:
        groups["pruning_history"] = _history(history)
    _add_units(groups)
    attributes = _attributes(draws, data.num_train, len(y), exact, config or {})
    return _arviz.from_datasets(groups, attributes)


def _sampled(
    values: Mapping[str, tuple[Sequence[str], Any]], coords: Mapping[str, Any] | None = None
) -> xr.Dataset:
    """Return values of every chain and draw, each with its further dimensions."""
    arrays = {n: ((*DRAWS, *dims), _array(value)) for n, (dims, value) in values.items()}
    dataset = xr.Dataset(arrays, coords)
    return dataset.assign_coords({name: np.arange(dataset.sizes[name]) for name in DRAWS})


def _array(values: Any) -> np.ndarray:  # noqa: ANN401
    return values.cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _total(draws: Draws, data: Dataset, by_example: Tensor) -> tuple[Tensor, bool]:
    """Return each draw's log likelihood of all training examples, and whether it is exact.

    Draws of the last layer need its inputs only once. Others would need a pass over all examples
    for each draw, so that the total is estimated from the chosen examples.
    """
    count = by_example.shape[-1]
    if count == data.num_train:
        return by_example.sum(-1), True
    if not only_last_layer(draws.model, draws.weights, draws.index, at(data.train_x, slice(1))):
        return by_example.sum(-1) * data.num_train / count, False
    parts = as_batches(data).chunks(CHUNK)
    sums = [draw_predictions.log_likelihood(draws, x, y).sum(-1) for x, y in parts]
    return torch.stack(sums).sum(0), True


def _target_dims(y: Tensor) -> list[str]:
    """Return names for the dimensions of one target; none for a class or a single number."""
    return [f"target_dim_{i}" for i in range(y.dim() - 1)]


def _compact_classes(values: Tensor) -> np.ndarray:
    """Return classes as int8 to save memory, and other values unchanged."""
    array = _array(values)
    return array.astype(np.int8) if array.dtype == np.int64 and array.max() < 128 else array


def _probes(data: Dataset) -> Inputs:
    """Return the first test inputs, or the first training inputs if there is no test part."""
    return at(data.train_x if data.test_x is None else data.test_x, slice(PROBES))


def _traced_weights(draws: Draws) -> tuple[Tensor, list[str]]:
    """Return the positions and names of some drawn weights, evenly spaced over the layers."""
    names = [
        f"{site}[{', '.join(map(str, np.unravel_index(int(i), draws.weights[site].shape)))}]"
        for site, index in draws.index.items()
        for i in index
    ]
    number = min(WEIGHTS, len(names))
    positions = torch.linspace(0, len(names) - 1, number, device="cpu").round().long().unique()
    return positions, [names[i] for i in positions]


def _posterior(draws: Draws, data: Dataset, log_joint: Tensor) -> xr.Dataset:
    parts = draws.values.split([len(i) for i in draws.index.values()], -1)
    positions, names = _traced_weights(draws)
    norms = torch.stack([part.double().norm(dim=-1) for part in parts], -1)
    quantities: dict[str, tuple[tuple[str, ...], Tensor]] = {
        "log_joint": ((), log_joint),
        "layer_norm": (("layer",), norms),
        "weight": (("weight_name",), draws.values[..., positions]),
    }
    coords: dict[str, Any] = {"layer": list(draws.index), "weight_name": names}
    name, values = _probed(draws, _probes(data))
    quantities[name] = ("probe", *_target_dims(data.train_y)), values
    return _sampled(quantities, coords | {"probe": np.arange(len(values[0, 0]))})


def _probed(draws: Draws, x: Inputs) -> tuple[str, Tensor]:
    """Return the predictions of some inputs by every draw (chains, draws, n, ...), and their name.

    These are the probability of the class that the MAP predicts, or the mean of other targets.
    """
    drawn, shape = draw_predictions.drawn_targets(draws, x), draws.values.shape[:2]
    (point,) = target_distributions(draws.model, draws.weights, x)
    classes = probabilities(point)
    if classes is None:
        return "prediction", torch.stack([mean(one) for one in drawn]).unflatten(0, shape)
    predicted = classes.argmax(-1, keepdim=True)
    values = torch.stack([probabilities(one).gather(-1, predicted)[..., 0] for one in drawn])  # type: ignore[union-attr]
    return "probability", values.unflatten(0, shape)


def _sampled_targets(draws: Draws, x: Inputs, seed: int) -> np.ndarray:
    """Return one sampled target for each draw and example (chains, draws, n, ...)."""
    with forked_rng(draws.values.device, seed):
        flat = torch.stack([one.sample() for one in draw_predictions.drawn_targets(draws, x)])
    return _compact_classes(flat.unflatten(0, draws.values.shape[:2]))


def _predictions(draws: Draws, data: Dataset, examples: int, seed: int) -> dict[str, xr.Dataset]:
    if data.test_x is None or data.test_y is None:
        return {}
    rows = choose_examples(len(data.test_y), examples, seed, "test")
    dims, coords = ("test_example", *_target_dims(data.test_y)), {"test_example": rows.numpy()}
    obs = _sampled_targets(draws, at(data.test_x, rows), seed)
    labels = xr.Dataset({"label": (dims, data.test_y[rows].cpu().numpy())}, coords)
    predictions = _sampled({"obs": (dims, obs)}, coords)
    return {"predictions": predictions, "predictions_constant_data": labels}


def _history(history: pd.DataFrame) -> xr.Dataset:
    """Return the pruning history: a value for each epoch, and the sparsity by epoch and layer."""
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
    return group


def _add_units(groups: Mapping[str, xr.Dataset]) -> None:
    for name, unit in UNITS.items():
        if name in groups["posterior"]:
            groups["posterior"][name].attrs["units"] = unit
    groups["log_likelihood"]["obs"].attrs["units"] = "nats"


def _attributes(
    draws: Draws, num_train: int, chosen: int, exact: bool, config: Mapping
) -> dict[str, Any]:
    versions = {package: version(package) for package in ("pyro-bayesprune", "pyro-ppl", "arviz")}
    return {
        "method": draws.method,
        "approximation": APPROXIMATIONS[draws.method],
        "independent_draws": int(draws.independent),
        "importance_corrected": int(draws.independent and exact),
        "surviving_weights_drawn": draws.values.shape[-1],
        "drawn_sites": list(draws.index),
        "num_train": num_train,
        "log_likelihood_examples": chosen,
        "log_likelihood_total": "exact" if exact else "estimated from the chosen examples",
        "temperature": draws.temperature,
        "config": json.dumps(dict(config), sort_keys=True),
        "versions": json.dumps(versions),
        "seconds": draws.seconds,
    }


def save(idata: InferenceData, path: str | Path) -> None:
    """Write draws atomically as NetCDF (HDF5), followed by the SHA-256 of the file.

    HDF5 readers ignore the bytes after the stated end of the file. Either version of ArviZ reads
    the files of the other.
    """
    with tempfile.TemporaryDirectory() as folder:
        _arviz.write(idata, Path(folder) / FILE)
        content = (Path(folder) / FILE).read_bytes()
    files.write_atomically(files.path_of(path), files.with_checksum(content))


def load(path: str | Path) -> InferenceData:
    """Return the draws that `save` wrote, in memory.

    Raises:
        ValueError: if the file is damaged or is not such a NetCDF file.
    """
    try:
        path = files.path_of(path)
        files.without_checksum(path.read_bytes())
        return _arviz.read(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not InferenceData in a NetCDF file: {error}") from None
