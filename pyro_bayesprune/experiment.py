"""One run of a configuration: names become callables here, in plain dictionaries."""

import copy
import json
import math
import os
import platform
import subprocess
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from pyro_bayesprune import metrics, priors, runs
from pyro_bayesprune.config import Config, RunError
from pyro_bayesprune.data import TORCHVISION, Dataset, load_dataset, random_stream
from pyro_bayesprune.display import table_html
from pyro_bayesprune.masks import apply_masks
from pyro_bayesprune.model import BayesianModule, Masks, Weights
from pyro_bayesprune.networks import CNN, FCN, LeNet5
from pyro_bayesprune.optimizer import adam
from pyro_bayesprune.posterior import class_probabilities
from pyro_bayesprune.priors import Prior
from pyro_bayesprune.progress import shown
from pyro_bayesprune.pruning import SCHEDULES, Pruning
from pyro_bayesprune.svi import seeded
from pyro_bayesprune.training import Epoch, State, told, train

Build = Callable[[Config, Sequence[int], int], nn.Module]

DATASETS: dict[str, Callable[..., Dataset]] = {
    name: load_dataset for name in ("digits", *TORCHVISION)
}
NETWORKS: dict[str, Build] = {
    "fcn": lambda config, shape, classes: FCN(shape, classes, config.hidden),
    "cnn": lambda config, shape, classes: CNN(shape, classes, config.channels, config.hidden),
    "lenet_300_100": lambda config, shape, classes: FCN(shape, classes, (300, 100)),
    "lenet5": lambda config, shape, classes: LeNet5(shape, classes),
}
PRIORS: dict[str, Callable[[Config], Prior]] = {
    "normal": lambda config: priors.normal(config.prior_scale),
    "fan_in_normal": lambda config: priors.fan_in_normal(config.prior_scale),
    "laplace": lambda config: priors.laplace(config.prior_scale),
    "student_t": lambda config: priors.student_t(config.prior_df, config.prior_scale),
    "layer_scale": lambda config: priors.layer_scale(config.prior_scale),
    "evidence_normal": lambda config: priors.evidence_normal(config.prior_scale),
}
PRUNING_FIELDS = [f.name for f in fields(Pruning) if f.name in Config.__dataclass_fields__]


@dataclass(frozen=True)
class Result:
    """A finished run.

    Args:
        folder: where it lies.
        config: its configuration.
        metrics: content of result.json.
        history: a row an epoch.
        model: the Pyro model.
        weights: a value for each latent site; pruned weights are zero.
        masks: a bool tensor for each prunable site, True where a weight is kept.
        buffers: the module's buffers.
    """

    folder: Path
    config: Config
    metrics: dict[str, Any]
    history: pd.DataFrame
    model: BayesianModule
    weights: Weights
    masks: Masks
    buffers: dict[str, Tensor]

    def predict_proba(self, x: Tensor) -> Tensor:
        """Return class probabilities (n, classes) of inputs (n, ...)."""
        return class_probabilities(self.model, self.weights, x)

    def __repr__(self) -> str:
        """Summarise: what ran, accuracy, sparsity, decisions."""
        m = self.metrics
        return (
            f"Result({self.config.dataset} {self.config.network} {m['method']}; test accuracy "
            f"{_shown(m['test_accuracy'])}, test loss {_shown(m['test_loss'])}; sparsity "
            f"{m['achieved_sparsity']:.4f}, compression {m['compression_ratio']:.1f}x; steps "
            f"{m['pruned']} pruned, {m['refused']} refused, {m['unchanged']} unchanged; "
            f"{m['seconds']:.0f} s; {self.folder})"
        )

    def _repr_html_(self) -> str:
        """Show the same in a notebook, as a table."""
        m = self.metrics
        title = f"{self.config.dataset} {self.config.network} {m['method']}"
        rows = {
            "test accuracy": _shown(m.get("test_accuracy")),
            "test loss (nats an example)": _shown(m.get("test_loss")),
            "sparsity": f"{m['achieved_sparsity']:.4f}",
            "compression": f"{m['compression_ratio']:.1f}x",
            "steps": ", ".join(f"{m[d]} {d}" for d in ("pruned", "refused", "unchanged")),
            "seed": self.config.seed,
            "folder": self.folder,
        }
        return table_html(title, rows)


def _shown(value: float | None) -> str:
    """Four digits; JSON, so result.json too, has no NaN but null."""
    return "not finite" if value is None else f"{value:.4f}"


def check_device(device: str) -> torch.device:
    """Return a device.

    Raises:
        ValueError: if there is no such device here.
    """
    try:
        found = torch.device(device)
        torch.ones(1, device=found).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {device!r} cannot be used here: {reason}") from None
    return found


def build_data(config: Config, data_dir: str | Path | None = None) -> Dataset:
    """Return the data set of a configuration."""
    load = DATASETS.get(config.dataset, load_dataset)
    return load(config.dataset, data_dir, validation=config.validation, seed=config.data_seed)


def build_model(
    config: Config, shape: Sequence[int], num_classes: int, num_data: int
) -> BayesianModule:
    """Return the model of a configuration, with the initial weights of its seed."""
    with seeded(config.seed, "network"):
        net = NETWORKS[config.network](config, shape, num_classes)
    return BayesianModule(net, PRIORS[config.prior](config), num_data)


def epochs_of(
    config: Config,
    model: BayesianModule,
    data: Dataset,
    *,
    epochs: int,
    state: State | None = None,
    device: str | torch.device = "cpu",
) -> Generator[tuple[State, Epoch]]:
    """Train as configured, from the beginning or from a state; yields after each epoch."""
    pruning = Pruning(**{name: getattr(config, name) for name in PRUNING_FIELDS})
    before = max(
        0, epochs - config.epochs
    )  # of earlier trainings, after which schedules start anew
    schedule = SCHEDULES[config.schedule]
    return train(
        model,
        data,
        pruning=replace(pruning, schedule=lambda e, n, s: schedule(e - before, n - before, s)),
        epochs=epochs,
        batch_size=config.batch_size,
        optim=adam(config.learning_rate, config.epochs, annealing=config.annealing),
        objective=config.objective,
        temperature=config.temperature,
        seed=config.seed,
        state=state,
        device=device,
    )


def trainings(config: Config) -> list[Config]:
    """Return what a run trains one after the other.

    Without a restart, one training that prunes. Else ``rounds`` that do, each removing the same
    share of what is left, and then one under the final masks (Frankle & Carbin, 2019).
    """
    if config.restart == "no":
        return [config]
    earlier = range(1, config.rounds)  # none where the sparsity is "auto"
    shares = [1 - (1 - float(config.sparsity)) ** (r / config.rounds) for r in earlier]
    return [replace(config, sparsity=share) for share in (*shares, config.sparsity, 0.0)]


def restarted(
    config: Config, state: State, model: BayesianModule, data: Dataset, early: State | None = None
) -> State:
    """Return the state from which a run's next training starts (``restart``).

    The masks stay (``shuffle``: shuffled within each layer); weights and buffers are those of the
    beginning, of an ``early`` state, or fresh ones (``reinitialise``); the optimiser starts anew.
    """
    masks = dict(state.masks)
    if config.restart == "shuffle":
        generator = random_stream(config.seed, "shuffle")
        for name, mask in masks.items():
            order = torch.randperm(mask.numel(), generator=generator).to(mask.device)
            masks[name] = mask.flatten()[order].view(mask.shape)
    if config.restart == "reinitialise":
        with seeded(config.seed, "reinitialise"):
            model = copy.deepcopy(model)
            model.net = NETWORKS[config.network](config, data.shape, data.num_classes)
    first = {n: p.detach().to(state.weights[n].device) for n, p in model.net.named_parameters()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    if early is not None:
        first, buffers = early.weights, early.buffers
    weights = apply_masks(state.weights | first, masks)
    return State(state.epoch, weights, masks, buffers, {}, None)


def run(
    config: Config,
    *,
    out: str | Path = "runs",
    data_dir: str | Path | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> Result:
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
    if runs.is_finished(folder):
        result = load_run(folder)
        runs.tidy(folder)
        return result
    data = build_data(config, data_dir)
    model = build_model(config, data.shape, data.num_classes, data.num_train)
    with runs.locked(folder):
        if not runs.is_finished(folder):
            runs.write_config(folder, config)
            runs.check_data(folder, data.sha256)
            _train_and_finish(config, model, data, folder, chosen, progress)
    return load_run(folder)


def _begun(folder: Path) -> tuple[State | None, list[dict[str, Any]]]:
    """Return state and history of the checkpoint; where it is damaged, start over and keep it."""
    try:
        return runs.read_checkpoint(folder) or (None, [])
    except RunError as error:
        kept = runs.set_aside(folder / "checkpoint.pt")
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
                        runs.write_checkpoint(folder, state, [], runs.EARLY)
                    if state.epoch == end and number < len(parts):
                        early, _ = runs.read_checkpoint(folder, runs.EARLY) or (None, [])
                        state = restarted(config, state, model, data, early)
                    rows.append(epoch.row())
                    runs.write_checkpoint(folder, state, rows)
                    runs.write_history(folder, rows)
                    show(told(epoch))
    if state is None:
        raise ValueError(f"epochs must be positive, got {config.epochs}")
    for name, buffer in model.named_buffers():
        buffer.copy_(state.buffers[name])
    runs.write_config(folder, config)  # somebody may have changed it since
    runs.finish(folder, state, rows, _summary(config, model, state, rows, data))


def _summary(
    config: Config, model: BayesianModule, state: State, rows: list[dict[str, Any]], data: Dataset
) -> dict[str, Any]:
    """Return what result.json holds."""
    decisions = [row["decision"] for row in rows]
    counts = {d: decisions.count(d) for d in ("pruned", "refused", "unchanged")}
    last = rows[-1]
    return {
        "id": config.id,
        "method": config.method,
        **_test_metrics(model, state, data),
        **_size(model.net, state, data.shape),
        **counts,
        "prior_decided": sum(bool(row["prior_decides"]) for row in rows),
        **{k: last[k] for k in ("train_loss", "validation_loss", "validation_accuracy")},
        "log_likelihood": last["log_likelihood_after"],
        "log_prior": last["log_prior_after"],
        "epochs": len(rows),
        "seconds": sum(row["seconds_training"] + row["seconds_step"] for row in rows),
        "shape": list(data.shape),
        "num_classes": data.num_classes,
        "num_train": data.num_train,
        "data_sha256": data.sha256,
        **provenance(),
    }


def _test_metrics(model: BayesianModule, state: State, data: Dataset) -> dict[str, float]:
    if data.test_x is None or data.test_y is None:
        return {}
    device = next(iter(state.weights.values())).device
    probabilities = class_probabilities(model, state.weights, data.test_x.to(device)).cpu()
    return {
        "test_accuracy": metrics.accuracy(probabilities, data.test_y),
        "test_loss": metrics.negative_log_likelihood(probabilities, data.test_y),
        "test_brier": metrics.brier(probabilities, data.test_y),
        "test_ece": metrics.expected_calibration_error(probabilities, data.test_y),
    }


def _size(net: nn.Module, state: State, shape: Sequence[int]) -> dict[str, Any]:
    parameters = sum(weight.numel() for weight in net.parameters())
    pruned = sum(int((~mask).sum()) for mask in state.masks.values())
    layers = metrics.layer_sparsity(state.masks)
    flops = metrics.layer_flops(net, shape)
    return {
        "achieved_sparsity": metrics.sparsity(state.masks),
        "parameters": parameters,
        "prunable": sum(mask.numel() for mask in state.masks.values()),
        "compression_ratio": parameters / (parameters - pruned),
        "multiply_adds": sum(flops.values()),
        "theoretical_speedup": metrics.theoretical_speedup(flops, state.masks),
        "layer_sparsity": layers,
        "dead_units": metrics.dead_units(state.weights, state.masks),
        "collapsed_layers": [name for name, share in layers.items() if share == 1],
    }


def provenance() -> dict[str, Any]:
    """Return versions, machine, commit and time: what a number needs beside it."""
    packages = ("pyro-bayesprune", "torch", "pyro-ppl", "numpy")
    return {
        "versions": {"python": platform.python_version(), **{p: version(p) for p in packages}},
        "machine": {
            "platform": f"{platform.system()} {platform.machine()}",
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
        "commit": _commit(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _commit() -> str | None:
    """Return the git commit of the code, None outside a checkout of it."""
    git = ["git", "-C", str(Path(__file__).parent)]
    tracked = [*git, "ls-files", "--error-unmatch", Path(__file__).name]
    try:
        for command in (tracked, [*git, "rev-parse", "--short", "HEAD"]):
            done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None  # no git, or installed below somebody else's repository
    return done.stdout.strip()


def load_run(folder: str | Path) -> Result:
    """Return the finished run in ``folder``.

    Raises:
        RunError: if it is not a finished run, or damaged.
    """
    folder = Path(folder)
    config, result = runs.read_config(folder), runs.read_result(folder)
    weights, masks, buffers = runs.read_weights(folder)
    try:
        model = build_model(config, result["shape"], result["num_classes"], result["num_train"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        told = " ".join(f"{type(error).__name__} {error}".split())
        raise RunError(f"{folder / 'result.json'} is damaged: no model from it ({told})") from None
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    history = runs.read_history(folder)
    return Result(folder, config, result, history, model, weights, masks, buffers)


def replay(history: pd.DataFrame, config: Config) -> list[int]:
    """Return the epochs whose recorded decision does not follow from their record.

    Candidates are compared with the threshold again, in order, by the gate; the parts of the log
    Bayes factor must add up, and an accepted one must be the difference of the log joints.
    """
    rows = (row for _, row in history.iterrows())
    return [int(row["epoch"]) for row in rows if not _follows(row, config)]


def _follows(row: pd.Series, config: Config) -> bool:
    tries = [sum(parts) for _, *parts in json.loads(row["tried"])]
    passes = [config.gate != "propose" or log_bf > row["log_threshold"] for log_bf in tries]
    closed = config.gate == "previous" and row["recorded"] <= row["log_threshold"]
    if not tries:
        fits = row["decision"] == "unchanged" or (row["decision"] == "refused" and closed)
    else:
        decision = "pruned" if passes[-1] else "refused"
        fits = row["decision"] == decision and not any(passes[:-1]) and not closed
    change = row["log_joint_after"] - row["log_joint_before"]
    joint = row["log_bf"] - row["log_occam_ratio"]
    expected = joint if row["decision"] == "pruned" else 0.0
    last = tries[-1] if tries else 0.0
    known = config.evaluation == "full"  # sequential evaluation computes no joint densities
    agree = _close(change, expected) if known else True
    return bool(fits and math.isclose(row["log_bf"], last) and agree)


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-6)
