"""A training from beginning to end, and its result."""

import math
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import pandas as pd
import torch
from pyro.optim import PyroOptim
from torch import Tensor, nn

from pyro_bayesprune._utils.calls import suggests_names
from pyro_bayesprune._utils.progress import epoch_progress
from pyro_bayesprune._utils.tables import table_html
from pyro_bayesprune.data.dataset import Dataset, Pair
from pyro_bayesprune.inference.metrics import sparsity
from pyro_bayesprune.inference.prediction import class_probabilities, mean_prediction
from pyro_bayesprune.models.buffers import set_buffers
from pyro_bayesprune.models.copying import copied
from pyro_bayesprune.models.module import BayesianModule, Masks, Model, Weights, network
from pyro_bayesprune.models.plain import bake
from pyro_bayesprune.pruning.settings import Pruning
from pyro_bayesprune.training.loop import train
from pyro_bayesprune.training.state import Epoch, State
from pyro_bayesprune.training.trainer import Objective, TrainingDiverged


@dataclass(frozen=True)
class Fit:
    """A trained and pruned network.

    Args:
        model: the Pyro model, a copy of the one given, with its buffers as training left them.
        state: the end of the training; `train` and `fit` go on from it.
        history: a row an epoch, see `Epoch.row`.
        stopped: why training stopped before its end, None where it did not.
        temperature: divided the log likelihood.
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

    def predict_proba(self, x: Tensor) -> Tensor:
        """Return class probabilities (n, classes) of inputs (n, ...)."""
        return class_probabilities(self.model, self.weights, self._like_weights(x))

    def predict(self, x: Tensor) -> Tensor:
        """Return the mean of the targets (n, ...) of inputs (n, ...)."""
        return mean_prediction(self.model, self.weights, self._like_weights(x))

    def _like_weights(self, x: Tensor) -> Tensor:
        like = next(iter(self.weights.values()))
        if not isinstance(x, Tensor):  # of NumPy
            x = torch.as_tensor(x, device="cpu")
        return x.to(like.device, like.dtype if x.is_floating_point() else x.dtype)

    @cached_property
    def module(self) -> nn.Module:
        """The network as a plain module in evaluation mode, with trained weights and buffers."""
        return bake(self)

    def __repr__(self) -> str:
        """Summarise: epochs, sparsity, held-out accuracy and loss, decisions."""
        parts = [f"{self.state.epoch} epochs", f"sparsity {self.sparsity:.4f}"]
        if not self.masks:
            parts.append("nothing prunable")
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


@suggests_names
def fit(
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
    progress: bool = True,
) -> Fit:
    """Train and prune to the end.

    Args:
        model: a Pyro model called as ``model(x, y)`` with a plate ``data``.
        data: a `Dataset` or a pair ``(x, y)``.
        pruning: as in `train`, and so are the following ones.
        epochs: passes over the data in all.
        batch_size: examples a step.
        optim: any `pyro.optim` optimiser.
        objective: ``"map"`` or ``"mle"``.
        temperature: divides the log likelihood.
        seed: of everything random.
        initial_weights: values for some or all sites.
        state: go on from here.
        device: where to compute.
        progress: show a progress bar.

    Returns:
        The fit. Where a loss became NaN or infinite, that of the last whole epoch, with the reason
        in ``stopped`` and a RuntimeWarning.

    Raises:
        TrainingDiverged: when that happens in the first epoch, where there is nothing to return.
    """
    rows, stopped = [], None
    training = train(
        model,
        data,
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
    )
    with epoch_progress("fit", epochs, state.epoch if state else 0, enabled=progress) as show:
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
    return Fit(with_buffers(model, state), state, pd.DataFrame(rows), stopped, temperature)


def with_buffers(model: Model, state: State) -> Model:
    """Return a copy of a module with a state's buffers, on its device; any other model as it is."""
    module = network(copy := copied(model))
    if module is not None:
        module.to(next(iter(state.weights.values())).device)
        set_buffers(module, state.buffers)
    if isinstance(module, BayesianModule):
        module.fitted = True
    return copy


def told(epoch: Epoch) -> dict[str, str]:
    """Return what is shown of an epoch while a training runs."""
    numbers = {"loss": epoch.train_loss, "accuracy": epoch.validation_accuracy}
    numbers["sparsity"] = epoch.step.sparsity
    values = {name: f"{value:.4f}" for name, value in numbers.items() if not math.isnan(value)}
    return values | {"step": epoch.step.decision}
