"""One run of a configuration in its folder, and the content of its result.json."""

import warnings
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from torch import nn

from pyro_bayesprune._utils.checks import check_device
from pyro_bayesprune._utils.files import path_of
from pyro_bayesprune._utils.process import deterministic_cudnn
from pyro_bayesprune._utils.progress import epoch_progress
from pyro_bayesprune._utils.provenance import provenance
from pyro_bayesprune.data.dataset import Dataset
from pyro_bayesprune.experiments import build, devices, folders
from pyro_bayesprune.experiments.config import Config
from pyro_bayesprune.experiments.errors import RunError
from pyro_bayesprune.experiments.loading import Run, load_run
from pyro_bayesprune.inference import metrics
from pyro_bayesprune.inference.prediction import predictions
from pyro_bayesprune.models.module import BayesianModule, Model, Weights
from pyro_bayesprune.pruning.registry import DATASETS
from pyro_bayesprune.training.fitting import with_buffers
from pyro_bayesprune.training.state import State

VALIDATED = ("train_loss", "validation_loss", "validation_accuracy", "validation_rmse")


def run(
    config: Config,
    *,
    out: str | Path = "runs",
    data_dir: str | Path | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> Run:
    """Run a configuration in its folder ``out/<id>``, or continue an interrupted run there.

    A finished run is not repeated.

    Args:
        config: the configuration.
        out: folder of the run folders.
        data_dir: folder of the data files; see `load_dataset`.
        device: device of the computation.
        progress: show the progress of the epochs.

    Raises:
        ValueError: for invalid settings or data.
        RunError: if another process works on the run, or if its folder is damaged.
        TrainingDiverged: if a loss is not finite. The last checkpoint remains.
    """
    if not isinstance(config, Config):
        hint = f": write run(Config(dataset={config!r}))" if isinstance(config, str) else ""
        raise ValueError(f"config must be a Config, got {type(config).__name__}{hint}")
    check_device(device)
    folder = path_of(out) / config.id
    if folders.is_finished(folder):
        return _finished(config, folder, data_dir)
    data = build.build_data(config, data_dir)
    outputs = build.num_outputs(config, data)
    model = build.build_model(config, data.shape, outputs, data.num_train)
    with folders.locked(folder):
        if not folders.is_finished(folder):
            folders.write_config(folder, config)
            folders.check_data(folder, data.sha256)
            used = folders.note_device(folder, devices.describe(device))
            with deterministic_cudnn():
                state, rows = _train(config, model, data, folder, device, progress)
            model = with_buffers(model, state)
            folders.write_config(folder, config)  # raises if the file was changed since
            result = summarise(config, model, state, rows, data) | {"devices": used}
            folders.finish(folder, state, rows, result)
    return load_run(folder)


def _finished(config: Config, folder: Path, data_dir: str | Path | None) -> Run:
    """Return a finished run, or raise a RunError if its data file has changed."""
    result = load_run(folder)
    if config.dataset not in DATASETS and path_of(config.dataset).exists():
        data_of(result, data_dir)
    folders.tidy(folder)
    return result


def data_of(finished: Run, data_dir: str | Path | None = None) -> Dataset:
    """Return the data of a finished run, or raise a RunError if its data file has changed.

    Built-in data sets are identified by their name.
    """
    config, expected = finished.config, finished.metrics.get("data_sha256")
    data = build.build_data(config, data_dir)
    if config.dataset not in DATASETS and expected not in (None, data.sha256):
        raise RunError(
            f"{finished.folder} is a finished run of other data: "
            f"{path_of(config.dataset).resolve()} has changed, or the same relative path referred "
            f"to another file. {folders.AGAIN}"
        )
    return data


def _train(
    config: Config, model: BayesianModule, data: Dataset, folder: Path, device: str, progress: bool
) -> tuple[State, folders.Rows]:
    """Return the final state and the history, after a checkpoint for each epoch."""
    state, rows = _checkpoint(folder)
    parts = build.trainings(config)
    total = config.epochs * len(parts)
    with epoch_progress(config.title, total, len(rows), enabled=progress) as show:
        for number, part in enumerate(parts, start=1):
            end = number * config.epochs
            training = build.epochs_of(part, model, data, epochs=end, state=state, device=device)
            with closing(training):
                for state, epoch in training:
                    if state.epoch == config.rewind_epoch:
                        folders.write_checkpoint(folder, state, [], folders.EARLY)
                    if state.epoch == end and number < len(parts):
                        early, _ = folders.read_checkpoint(folder, folders.EARLY)
                        if config.rewind_epoch and early is None:
                            raise RunError(f"{folder / folders.EARLY} is missing. {folders.AGAIN}")
                        state = build.restarted(config, state, model, data, early)
                    rows.append(epoch.row())
                    folders.write_checkpoint(folder, state, rows)
                    folders.write_history(folder, rows)
                    show(epoch.progress())
    assert state is not None  # a configuration has at least one epoch
    return state, rows


def _checkpoint(folder: Path) -> tuple[State | None, folders.Rows]:
    """Return the state and history of the checkpoint. Rename a damaged checkpoint and warn."""
    try:
        return folders.read_checkpoint(folder)
    except RunError as error:
        renamed = folders.set_aside(folder / folders.CHECKPOINT)
        message = f"{error}. The run starts over; the file is kept as {renamed.name}"
        warnings.warn(message, RuntimeWarning, stacklevel=4)
        return None, []


def summarise(
    config: Config, model: BayesianModule, state: State, rows: folders.Rows, data: Dataset
) -> dict[str, Any]:
    """Return the content of result.json for a finished run with these epochs."""
    decisions = [row["decision"] for row in rows]
    last = rows[-1]
    return {
        "id": config.id,
        "method": config.method,
        **test_metrics(model, state.weights, data),
        **_size(model.net, state, data.shape),
        **{d: decisions.count(d) for d in ("pruned", "refused", "unchanged")},
        "prior_decided": sum(bool(row["prior_decides"]) for row in rows),
        **{k: last[k] for k in VALIDATED if k in last},
        "log_likelihood": last["log_likelihood_after"],
        "log_prior": last["log_prior_after"],
        "gradient_norm": last["gradient_norm"],
        "epochs": len(rows),
        "seconds": sum(row["seconds_training"] + row["seconds_step"] for row in rows),
        "shape": list(data.shape),
        **_outputs(config, data),
        "num_train": data.num_train,
        "data_sha256": data.sha256,
        **provenance(),
    }


def _outputs(config: Config, data: Dataset) -> dict[str, int]:
    """The number of classes, or of outputs for targets that are no classes."""
    name = "num_classes" if config.likelihood == "categorical" else "num_outputs"
    return {name: build.num_outputs(config, data)}


def test_metrics(model: Model, weights: Weights, data: Dataset) -> dict[str, float]:
    """Return the size of the test set and its metrics, see `Predictions.scores`; none without one.

    The negative log likelihood is called the loss.
    """
    if data.test_x is None or data.test_y is None:
        return {}
    values = predictions(model, weights, (data.test_x, data.test_y)).scores()
    measures = {f"test_{'loss' if n == 'nll' else n}": value for n, value in values.items()}
    return {"num_test": len(data.test_y)} | measures


def _size(net: nn.Module, state: State, shape: Sequence[int]) -> dict[str, Any]:
    flops = metrics.layer_flops(net, shape)
    return {
        **metrics.sizes(sum(weight.numel() for weight in net.parameters()), state.masks),
        "multiply_adds": sum(flops.values()),
        "theoretical_speedup": metrics.theoretical_speedup(flops, state.masks),
        "dead_units": metrics.dead_units(state.weights, state.masks),
    }
