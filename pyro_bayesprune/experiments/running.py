"""One run of a configuration in its folder."""

import warnings
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from pyro_bayesprune._utils.progress import shown
from pyro_bayesprune.data.dataset import Dataset
from pyro_bayesprune.experiments import folders
from pyro_bayesprune.experiments.build import (
    build_data,
    build_model,
    check_device,
    epochs_of,
    restarted,
    trainings,
)
from pyro_bayesprune.experiments.config import Config
from pyro_bayesprune.experiments.errors import RunError
from pyro_bayesprune.experiments.loading import Run, load_run
from pyro_bayesprune.experiments.summary import summarise
from pyro_bayesprune.models.module import BayesianModule
from pyro_bayesprune.training.fitting import told
from pyro_bayesprune.training.state import State


def run(
    config: Config,
    *,
    out: str | Path = "runs",
    data_dir: str | Path | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> Run:
    """Run a configuration in its folder ``out/<id>``: skip what is done, go on with what was begun.

    Args:
        config: what to run.
        out: folder of the run folders.
        data_dir: folder of the data files; see `load_dataset`.
        device: where to compute.
        progress: show epochs as they pass.

    Raises:
        ValueError: for bad settings or data.
        RunError: if another process works on the run, or its folder is damaged.
        TrainingDiverged: if a loss is not finite; the last checkpoint is kept.
    """
    folder = Path(out) / config.id
    chosen = check_device(device)
    if folders.is_finished(folder):
        result = load_run(folder)
        folders.tidy(folder)
        return result
    data = build_data(config, data_dir)
    model = build_model(config, data.shape, data.num_classes, data.num_train)
    with folders.locked(folder):
        if not folders.is_finished(folder):
            folders.write_config(folder, config)
            folders.check_data(folder, data.sha256)
            _train_and_finish(config, model, data, folder, chosen, progress)
    return load_run(folder)


def _begun(folder: Path) -> tuple[State | None, list[dict[str, Any]]]:
    """Return state and history of the checkpoint; where it is damaged, start over and keep it."""
    try:
        return folders.read_checkpoint(folder) or (None, [])
    except RunError as error:
        kept = folders.set_aside(folder / "checkpoint.pt")
        message = f"{error}. The run starts over; the file is kept as {kept.name}"
        warnings.warn(message, RuntimeWarning, stacklevel=4)
        return None, []


def _train_and_finish(
    config: Config,
    model: BayesianModule,
    data: Dataset,
    folder: Path,
    device: torch.device,
    progress: bool,
) -> None:
    state, rows = _begun(folder)
    parts = trainings(config)
    with shown(config.title, config.epochs * len(parts), len(rows), enabled=progress) as show:
        for number, part in enumerate(parts, start=1):
            end = number * config.epochs
            training = epochs_of(part, model, data, epochs=end, state=state, device=device)
            with closing(training):
                for state, epoch in training:
                    if state.epoch == config.rewind_epoch:
                        folders.write_checkpoint(folder, state, [], folders.EARLY)
                    if state.epoch == end and number < len(parts):
                        early, _ = folders.read_checkpoint(folder, folders.EARLY) or (None, [])
                        state = restarted(config, state, model, data, early)
                    rows.append(epoch.row())
                    folders.write_checkpoint(folder, state, rows)
                    folders.write_history(folder, rows)
                    show(told(epoch))
    if state is None:
        raise ValueError(f"epochs must be positive, got {config.epochs}")
    for name, buffer in model.named_buffers():
        buffer.copy_(state.buffers[name])
    folders.write_config(folder, config)  # somebody may have changed it since
    folders.finish(folder, state, rows, summarise(config, model, state, rows, data))
