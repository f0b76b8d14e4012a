"""MAP training by SVI with AutoDelta, one pruning step at the end of each epoch."""

import copy
import json
import math
import time
import warnings
from collections import Counter
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, cast, get_args

import pandas as pd
import torch
from pyro.optim import PyroOptim
from torch import Tensor

from pyro_bayesprune.curvature import random_sample
from pyro_bayesprune.data import Dataset, Pair, random_stream, train_part
from pyro_bayesprune.display import table_html
from pyro_bayesprune.evidence import evidence_scales
from pyro_bayesprune.masks import prunable_sites
from pyro_bayesprune.metrics import check_finite, sparsity
from pyro_bayesprune.model import BayesianModule, Masks, Model, Weights, network
from pyro_bayesprune.optimizer import adam
from pyro_bayesprune.posterior import (
    ModelSites,
    check_num_data,
    check_targets,
    check_weights,
    class_probabilities,
    held_out_loss,
    inspect_model,
    mean_prediction,
)
from pyro_bayesprune.priors import EVIDENCE, positive
from pyro_bayesprune.progress import shown
from pyro_bayesprune.pruning import PruneState, Pruning, Record, prune_step
from pyro_bayesprune.svi import (
    Objective,
    Trainer,
    TrainingDiverged,
    check_site_names,
    memory_kept,
)

UNPRUNED = Pruning(sparsity=0.0)


@dataclass(frozen=True)
class State:
    """A training at the end of an epoch: all that it needs to go on, bit for bit.

    Args:
        epoch: epochs that have passed.
        weights: a value for each latent site.
        masks: a bool tensor for each prunable site, True where a weight is kept.
        buffers: the module's buffers (BatchNorm's statistics).
        optimizer: state of the optimiser and its schedule; empty to start it anew.
        log_bf: log Bayes factor that the step recorded, nats over the data set.
    """

    epoch: int
    weights: Weights
    masks: Masks
    buffers: dict[str, Tensor]
    optimizer: dict[str, Any]
    log_bf: float | None


@dataclass(frozen=True)
class Epoch:
    """What an epoch saw: its pruning step's record, losses and times."""

    step: Record
    train_loss: float
    validation_loss: float
    validation_accuracy: float
    test_loss: float  # shown, as the paper's curves show it; nothing decides by it
    test_accuracy: float
    seconds_training: float
    seconds_step: float
    temperature: float = 1.0

    def row(self) -> dict[str, Any]:
        """Return the epoch as a row of the history: numbers and strings only."""
        step, factor = self.step, self.step.bayes_factor
        tries = [
            [t.sparsity, f.log_likelihood_ratio, f.log_prior_ratio, f.log_occam_ratio]
            for t in step.tries
            for f in [t.bayes_factor]
        ]
        return {
            "epoch": step.epoch,
            "train_loss": self.train_loss,
            "validation_loss": self.validation_loss,
            "validation_accuracy": self.validation_accuracy,
            "test_loss": self.test_loss,
            "test_accuracy": self.test_accuracy,
            "log_likelihood_before": step.before.log_likelihood,
            "log_prior_before": step.before.log_prior,
            "log_joint_before": step.before.total,
            "log_likelihood_after": step.after.log_likelihood,
            "log_prior_after": step.after.log_prior,
            "log_joint_after": step.after.total,
            "kind": factor.kind,
            "log_bf": factor.log,
            "log_bf_low": step.interval[0],
            "log_bf_high": step.interval[1],
            "data_read": step.data_read,
            "log_likelihood_ratio": factor.log_likelihood_ratio,
            "log_prior_ratio": factor.log_prior_ratio,
            "log_occam_ratio": factor.log_occam_ratio,
            "bf_per_datum": factor.value("datum"),
            "recorded": step.recorded,
            "log_threshold": step.log_threshold,
            "decision": step.decision,
            "prior_decides": step.prior_decides,
            "tries": len(tries),
            "tried": json.dumps(tries),
            "target": step.target,
            "sparsity_before": step.sparsity_before,
            "sparsity": step.sparsity,
            **{f"sparsity/{name}": value for name, value in step.layers.items()},
            "temperature": self.temperature,
            "seconds_training": self.seconds_training,
            "seconds_step": self.seconds_step,
        }


def _checked(
    model: Model, data: Dataset, epochs: int, batch_size: int, objective: str, temp: float
) -> ModelSites:
    for name, value in {"epochs": epochs, "batch_size": batch_size}.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")
    if objective not in get_args(Objective):
        raise ValueError(f"objective must be 'map' or 'mle', got {objective!r}")
    positive("temperature", temp)
    x, y = data.train_x, data.train_y
    sites = inspect_model(model, x, y)
    check_num_data(sites, len(x))
    if len(sites.observed) != 1:
        raise ValueError(f"training needs one observed site, the model has {list(sites.observed)}")
    parts = {"train": y, "validation": data.validation_y, "test": data.test_y}
    for part, targets in parts.items():
        if targets is not None:
            check_targets(sites, targets, part)
    check_site_names(list(sites.latent))
    return sites


def train(
    model: Model,
    data: Dataset | Pair,
    *,
    pruning: Pruning | None = None,
    epochs: int = 25,
    batch_size: int = 64,
    optim: PyroOptim | None = None,
    objective: Objective = "map",
    temperature: float = 1.0,
    seed: int = 0,
    initial_weights: Mapping[str, Tensor] | None = None,
    state: State | None = None,
    device: str | torch.device | None = None,
) -> Generator[tuple[State, Epoch]]:
    """Train to the MAP and prune at the end of each epoch; yield after each one.

    The model given is never changed. Random numbers come from streams of their own (initial values,
    data order, dropout, pruning), so that all methods of one seed share what they can share. With
    the same machine, versions and number of threads, a seed gives the same numbers bit for bit.

    Args:
        model: a Pyro model called as ``model(x, y)`` with a plate ``data``.
        data: a `Dataset` (its training part decides, its validation part is measured) or a pair.
        pruning: how to prune; None trains without.
        epochs: passes over the data in all, those of ``state`` included.
        batch_size: examples a step.
        optim: any `pyro.optim` optimiser; by default Adam of learning rate 0.001 that falls to
            zero over the last 40% of the epochs. A schedule takes its step after each epoch.
        objective: ``"map"``: −(log likelihood + log prior)/N; ``"mle"``: −log likelihood/N.
        temperature: divides the log likelihood, in training and in decisions (cold posteriors).
        seed: of the data order, the pruning and everything else that is random here.
        initial_weights: values for some or all sites; a `BayesianModule` starts from its module's.
        state: go on from here.
        device: where to compute; by default where the data are.

    Raises:
        ValueError: for a model or data that do not fit; the message names what is wrong.
        TrainingDiverged: when a loss is not finite.

    Warns:
        RuntimeWarning: when a step leaves a site no weight (recorded as a sparsity of 1).
    """
    pruning = pruning or UNPRUNED
    optim = optim or adam(1e-3, epochs, annealing=True)
    _check_kind("pruning", pruning, Pruning)
    _check_kind("optim", optim, PyroOptim)
    data, model = _on_device(data, model, device)
    sites = _checked(model, data, epochs, batch_size, objective, temperature)
    _check_initial(sites, initial_weights, state)
    trainer = Trainer(
        model,
        data.train_x,
        data.train_y,
        initial_weights=state.weights if state else initial_weights or {},
        optim=optim,
        objective=objective,
        temperature=temperature,
        seed=seed,
    )
    trainer.hold(name for name, site in sites.latent.items() if site["infer"].get(EVIDENCE))
    if state is None:
        names = prunable_sites(model, sites, pruning.sites, pruning.scope)
        masks = {n: torch.ones_like(trainer.params[n], dtype=torch.bool) for n in names}
        state = State(0, {}, masks, {}, {}, None)
    else:
        _continue(trainer, state, pruning)
    for _ in range(state.epoch, epochs):
        with memory_kept():
            state, seen = _one_epoch(trainer, data, pruning, state, epochs, batch_size)
        yield state, seen


def _continue(trainer: Trainer, state: State, pruning: Pruning) -> None:
    if state.optimizer:
        trainer.optim.set_state(state.optimizer)
    trainer.restore(state.buffers)
    trainer.project(state.masks, hold=not pruning.regrow)


def _one_epoch(
    trainer: Trainer, data: Dataset, pruning: Pruning, state: State, epochs: int, batch_size: int
) -> tuple[State, Epoch]:
    """Train for an epoch, take its pruning step, look at the result."""
    model, epoch, temperature = trainer.model, state.epoch + 1, trainer.elbo.temperature
    started = time.perf_counter()
    train_loss = trainer.run_epoch(epoch, batch_size)
    trained = time.perf_counter()
    if trainer.held_sites:
        sample = random_sample(data, random_stream(trainer.seed, "evidence", epoch))
        _set_scales(trainer, sample, state.masks, temperature)
    pruned, record = prune_step(
        model,
        PruneState(trainer.weights(), state.masks, state.log_bf),
        data,
        pruning,
        epoch=epoch,
        epochs=epochs,
        generator=random_stream(trainer.seed, "pruning", epoch),
        temperature=temperature,
    )
    _warn_of_emptied(epoch, state.masks, pruned.masks)
    trainer.project(pruned.masks, hold=not pruning.regrow)
    trainer.settle()
    times = trained - started, time.perf_counter() - trained
    held_out = (
        *_held_out(model, pruned, data.validation_x, data.validation_y),
        *_held_out(model, pruned, data.test_x, data.test_y),
    )
    moments = copy.deepcopy(trainer.optim.get_state())
    return (
        State(epoch, pruned.weights, pruned.masks, trainer.buffers(), moments, pruned.log_bf),
        Epoch(record, train_loss, *held_out, *times, temperature),
    )


def _set_scales(trainer: Trainer, sample: Pair, masks: Masks, temperature: float) -> None:
    """Move the scales of `priors.evidence_normal` to where the evidence is largest."""
    model, weights = cast(BayesianModule, trainer.model), trainer.weights()
    found = evidence_scales(model, weights, sample, masks, temperature=temperature)
    for site in trainer.held_sites:
        trainer.set(site, found[site.removesuffix("_scale")])


def _warn_of_emptied(epoch: int, before: Masks, after: Masks) -> None:
    """Warn of a layer that passes nothing on: allowed (the paper's collapse), never silent."""
    emptied = [name for name, mask in after.items() if not mask.any() and before[name].any()]
    if emptied:
        message = f"no weight of {', '.join(emptied)} is left after the step of epoch {epoch}"
        warnings.warn(message, RuntimeWarning, stacklevel=2)


def _check_kind(name: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        raise ValueError(f"{name} must be a {kind.__name__}, got {type(value).__name__}")


def _on_device(
    data: Dataset | Pair, model: Model, device: str | torch.device | None
) -> tuple[Dataset, Model]:
    """Return the data, and a copy of the model in training mode, on the device."""
    if not isinstance(data, Dataset):
        data = Dataset(*train_part(data))
    if device is not None:
        data = data.to(device)
    module = network(model := copy.deepcopy(model))  # a function is its own copy
    if module is not None:
        module.to(data.train_x.device).train()
    return data, model


def _check_initial(
    sites: ModelSites, initial: Mapping[str, Tensor] | None, state: State | None
) -> None:
    if state is not None and initial is not None:
        raise ValueError("give initial_weights or state, not both")
    if state is not None:
        check_weights(sites, state.weights)
    elif initial is not None:
        unknown = set(initial) - set(sites.latent)
        if unknown:
            raise ValueError(f"initial_weights for unknown sites {sorted(unknown)}")
        filled = {n: initial.get(n, site["value"]) for n, site in sites.latent.items()}
        check_weights(sites, filled)
        for name, value in filled.items():
            check_finite(f"initial_weights of {name!r}", value)


def _held_out(
    model: Model, state: PruneState, x: Tensor | None, y: Tensor | None
) -> tuple[float, float]:
    if x is None or y is None:
        return math.nan, math.nan
    return held_out_loss(model, state.weights, x, y)


@dataclass(frozen=True)
class Fit:
    """A trained and pruned network.

    Args:
        model: the Pyro model, a copy of the one given, with its buffers as training left them.
        state: the end of the training; `train` and `fit` go on from it.
        history: a row an epoch, see `Epoch.row`.
        stopped: why training stopped before its end, None where it did not.
    """

    model: Model
    state: State
    history: pd.DataFrame
    stopped: str | None = None

    @property
    def weights(self) -> Weights:
        """A value for each latent site; pruned weights are zero."""
        return self.state.weights

    @property
    def masks(self) -> Masks:
        """A bool tensor for each prunable site, True where a weight is kept."""
        return self.state.masks

    @property
    def buffers(self) -> dict[str, Tensor]:
        """The module's buffers by name."""
        return self.state.buffers

    @property
    def sparsity(self) -> float:
        """Share of the prunable weights that are zero."""
        return sparsity(self.masks)

    def predict_proba(self, x: Tensor) -> Tensor:
        """Return class probabilities (n, classes) of inputs (n, ...)."""
        return class_probabilities(self.model, self.weights, self._like_weights(x))

    def predict(self, x: Tensor) -> Tensor:
        """Return the mean of the targets (n, ...) of inputs (n, ...)."""
        return mean_prediction(self.model, self.weights, self._like_weights(x))

    def _like_weights(self, x: Tensor) -> Tensor:
        return x.to(next(iter(self.weights.values())).device)

    def __repr__(self) -> str:
        """Summarise: epochs, sparsity, held-out accuracy and loss, decisions."""
        parts = [f"{self.state.epoch} epochs", f"sparsity {self.sparsity:.4f}"]
        if len(self.history):
            last = self.history.iloc[-1]
            for what in ("accuracy", "loss"):
                if not math.isnan(last[f"validation_{what}"]):
                    parts.append(f"validation {what} {last[f'validation_{what}']:.4f}")
            counts = Counter(self.history["decision"])
            steps = [f"{counts[d]} {d}" for d in ("pruned", "refused", "unchanged") if counts[d]]
            parts.append("steps " + ", ".join(steps))
        if self.stopped:
            parts.append(f"stopped: {self.stopped}")
        return f"Fit({'; '.join(parts)})"

    def _repr_html_(self) -> str:
        """Show the same in a notebook, as a table."""
        rows: dict[str, object] = {"epochs": self.state.epoch, "sparsity": f"{self.sparsity:.4f}"}
        if len(self.history):
            last = self.history.iloc[-1]
            for name in ("train_loss", "validation_loss", "validation_accuracy"):
                if not math.isnan(last[name]):
                    rows[name.replace("_", " ")] = f"{last[name]:.4f}"
            counts = Counter(self.history["decision"])
            rows["steps"] = ", ".join(f"{count} {name}" for name, count in counts.items())
        if self.stopped:
            rows["stopped"] = self.stopped
        return table_html("Fit", rows)


def fit(
    model: Model,
    data: Dataset | Pair,
    *,
    epochs: int = 25,
    progress: bool = True,
    **options: Any,  # noqa: ANN401
) -> Fit:
    """Train and prune to the end; see `train` for the options.

    Args:
        model: a Pyro model called as ``model(x, y)`` with a plate ``data``.
        data: a `Dataset` or a pair ``(x, y)``.
        epochs: passes over the data in all.
        progress: show a progress bar.
        **options: ``pruning``, ``batch_size``, ``optim``, ``objective``, ``temperature``, ``seed``,
            ``initial_weights``, ``state``, ``device``, as in `train`.

    Returns:
        The fit. Where a loss became NaN or infinite, that of the last whole epoch, with the reason
        in ``stopped`` and a RuntimeWarning.

    Raises:
        TrainingDiverged: when that happens in the first epoch, where there is nothing to return.
    """
    state: State | None = options.get("state")
    rows, stopped = [], None
    training = train(model, data, epochs=epochs, **options)
    with shown("fit", epochs, state.epoch if state else 0, enabled=progress) as show:
        try:
            for state, epoch in training:  # noqa: B007  (the last state is the result)
                rows.append(epoch.row())
                show(told(epoch))
        except TrainingDiverged as error:
            if state is None:
                raise
            stopped = str(error)
            warnings.warn(f"training stopped: {stopped}", RuntimeWarning, stacklevel=2)
    if state is None:
        raise ValueError(f"epochs must be a positive integer, got {epochs!r}")
    return Fit(with_buffers(model, state), state, pd.DataFrame(rows), stopped)


def with_buffers(model: Model, state: State) -> Model:
    """Return a copy of a module with a state's buffers, on its device; any other model as it is."""
    module = network(held := copy.deepcopy(model))
    if module is not None:
        module.to(next(iter(state.weights.values())).device)
        for name, buffer in module.named_buffers():
            buffer.copy_(state.buffers[name])
    return held


def told(epoch: Epoch) -> dict[str, str]:
    """Return what is shown of an epoch while a training runs."""
    numbers = {"loss": epoch.train_loss, "accuracy": epoch.validation_accuracy}
    numbers["sparsity"] = epoch.step.sparsity
    values = {name: f"{value:.4f}" for name, value in numbers.items() if not math.isnan(value)}
    return values | {"step": epoch.step.decision}
