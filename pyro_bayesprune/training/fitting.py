"""A complete training and its result."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import get_args

import pandas as pd
import torch
from pyro.optim import PyroOptim
from torch import Tensor, nn

from pyro_bayesprune._utils.calls import suggests_names
from pyro_bayesprune._utils.progress import epoch_progress
from pyro_bayesprune._utils.tables import table_html
from pyro_bayesprune.data.loading import Data
from pyro_bayesprune.inference.metrics import sparsity
from pyro_bayesprune.inference.prediction import class_probabilities, mean_prediction
from pyro_bayesprune.models.buffers import set_buffers
from pyro_bayesprune.models.copying import M, copied
from pyro_bayesprune.models.module import BayesianModule, Masks, Model, Weights, network
from pyro_bayesprune.models.plain import bake
from pyro_bayesprune.pruning.gates import Decision
from pyro_bayesprune.pruning.registry import Autocast, Objective
from pyro_bayesprune.pruning.settings import Pruning
from pyro_bayesprune.training.loop import train
from pyro_bayesprune.training.saving import read_fit, write_fit
from pyro_bayesprune.training.state import State, missed_target
from pyro_bayesprune.training.trainer import TrainingDiverged


@dataclass(frozen=True)
class Fit:
    """A trained and pruned network.

    Args:
        model: a copy of the Pyro model, with the trained buffers.
        state: the end of the training; `train` and `fit` can continue from it.
        history: one row for each epoch, see `Epoch.row`.
        stopped: reason why the training stopped early, or None.
        temperature: divisor of the log likelihood.
    """

    model: Model
    state: State
    history: pd.DataFrame
    stopped: str | None = None
    temperature: float = 1.0

    @property
    def weights(self) -> Weights:
        """A value for each latent site (pruned weights are zero) and each frozen parameter."""
        module = network(self.model)
        constants = module.constants() if isinstance(module, BayesianModule) else {}
        return constants | self.state.weights

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

    def predict_proba(self, x: Data) -> Tensor:
        """Return class probabilities (n, ..., classes) of inputs, as in `class_probabilities`."""
        return class_probabilities(self.model, self.weights, x)

    def predict(self, x: Data) -> Tensor:
        """Return the mean of the targets (n, ...) of inputs, as in `class_probabilities`."""
        return mean_prediction(self.model, self.weights, x)

    def save(self, folder: str | Path) -> Path:
        """Write the fit into a folder: weights, masks, buffers, history, and a record.

        The model and the state of the optimiser are not saved: a training that continues from a
        loaded fit begins with a new optimiser. The default learning rate is that of its epoch; a
        schedule of your own begins anew.

        Args:
            folder: a new folder, or one of an earlier fit, which is replaced.

        Returns:
            The folder.

        Raises:
            ValueError: if the folder has other content.
        """
        record = {"stopped": self.stopped, "temperature": self.temperature}
        return write_fit(folder, self.model, self.state, self.history, **record)

    @staticmethod
    def load(folder: str | Path, model: Model) -> "Fit":
        """Return the fit that `save` wrote, on the CPU.

        Args:
            folder: the folder of the fit.
            model: the Pyro model, built as before. Only its frozen parameters must have the same
                values as before.

        Raises:
            ValueError: if there is no fit, a file is damaged, or the network is another one.
        """
        state, history, record = read_fit(folder, model)
        model = with_buffers(model, state)
        return Fit(model, state, history, record["stopped"], record["temperature"])

    @cached_property
    def module(self) -> nn.Module:
        """The network as a plain module in evaluation mode, with trained weights and buffers."""
        return bake(self)

    def _summary(self, *measures: str) -> dict[str, str]:
        """Return the sparsity, the last values of some measures, and the decisions, formatted."""
        rows = {"sparsity": f"{self.sparsity:.4f}"}
        if len(self.history):
            last = self.history.iloc[-1]
            for name in measures:
                if name in last and not math.isnan(last[name]):
                    rows[name.replace("_", " ")] = f"{last[name]:.4f}"
            counts = self.history["decision"].value_counts()
            decisions = [d for d in get_args(Decision) if d in counts]
            rows["steps"] = ", ".join(f"{counts[d]} {d}" for d in decisions)
            if (target := missed_target(self.history)) is not None:
                rows["target not reached:"] = f"{target:.4f}"
        return rows

    def __repr__(self) -> str:
        """Return a summary: epochs, sparsity, validation accuracy and loss, decisions."""
        summary = self._summary("validation_accuracy", "validation_rmse", "validation_loss")
        parts = [f"{self.state.epoch} epochs", *(f"{n} {value}" for n, value in summary.items())]
        if not self.masks:
            parts.append("nothing prunable")
        if self.stopped:
            parts.append(f"stopped: {self.stopped}")
        return f"Fit({'; '.join(parts)})"

    def _repr_html_(self) -> str:
        """Return a summary as a table, for notebooks."""
        losses = ("train_loss", "validation_loss")
        summary = self._summary(*losses, "validation_accuracy", "validation_rmse")
        stopped = {"stopped": self.stopped} if self.stopped else {}
        return table_html(
            type(self).__name__, {"epochs": str(self.state.epoch)} | summary | stopped
        )


@suggests_names
def fit(
    model: Model,
    data: Data,
    *,
    decide_on: Data | None = None,
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
    autocast: Autocast = "none",
    progress: bool = True,
) -> Fit:
    """Train and prune for all epochs.

    Args:
        model: a Pyro model called as ``model(x, y)`` with a plate ``data``.
        data: a `Dataset`, a pair ``(x, y)``, a loader, or another form that `as_batches` accepts.
        decide_on: as in `train`, like all following arguments except the last.
        pruning: how to prune.
        epochs: total number of passes over the data.
        batch_size: examples of a training step.
        optim: any `pyro.optim` optimiser.
        objective: ``"map"`` or ``"mle"``.
        temperature: divides the log likelihood.
        seed: seed of all random numbers.
        initial_weights: values for some or all sites.
        state: state from which to continue.
        device: device of the computation.
        autocast: precision of the network's outputs in training steps.
        progress: show a progress bar.

    Returns:
        The fit. If a loss becomes NaN or infinite, it is the fit after the last complete epoch,
        with the reason in ``stopped`` and a RuntimeWarning. The same holds for an interruption
        (Ctrl-C, or "interrupt the kernel" in a notebook), without a warning.

    Raises:
        TrainingDiverged: if a loss becomes NaN or infinite in the first epoch.
        KeyboardInterrupt: if the training is interrupted in the first epoch.
    """
    rows, stopped = [], None
    begun = state.epoch if state else 0
    training = train(
        model,
        data,
        decide_on=decide_on,
        pruning=pruning,
        epochs=epochs,
        batch_size=batch_size,
        optim=optim,
        objective=objective,
        temperature=temperature,
        seed=seed,
        initial_weights=initial_weights,
        state=state,
        device=device,
        autocast=autocast,
    )
    with epoch_progress("fit", epochs, begun, enabled=progress) as show:
        try:
            for reached, epoch in training:
                rows.append(epoch.row())
                state = reached
                show(epoch.progress())
        except TrainingDiverged as error:
            if state is None:
                raise
            stopped = str(error)
            warnings.warn(f"training stopped: {stopped}", RuntimeWarning, stacklevel=2)
        except KeyboardInterrupt:
            if state is None:
                raise
            stopped = "interrupted"
    if state is None:
        raise ValueError(f"epochs must be a positive integer, got {epochs!r}")
    history = pd.DataFrame(rows[: state.epoch - begun])
    return Fit(with_buffers(model, state), state, history, stopped, temperature)


def with_buffers(model: M, state: State) -> M:
    """Return a copy of a model; a module gets the buffers and the device of ``state``."""
    module = network(copy := copied(model))
    if module is not None:
        module.to(next(iter(state.weights.values())).device)
        set_buffers(module, state.buffers)
    if isinstance(module, BayesianModule):
        module.fitted = True
    return copy
