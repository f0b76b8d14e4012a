"""A run in memory, loaded from a run folder, a folder of run folders, or a store of results."""

import json
import warnings
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from pyro_bayesprune._utils.files import path_of
from pyro_bayesprune._utils.tables import table_html
from pyro_bayesprune.experiments import folders, results
from pyro_bayesprune.experiments.build import build_model
from pyro_bayesprune.experiments.config import Config
from pyro_bayesprune.experiments.errors import RunError
from pyro_bayesprune.inference.prediction import class_probabilities
from pyro_bayesprune.models.buffers import set_buffers
from pyro_bayesprune.models.module import Masks, Weights
from pyro_bayesprune.training.fitting import Fit
from pyro_bayesprune.training.state import missed_target


@dataclass(frozen=True)
class Run:
    """The settings, results and history of one run, and its trained network.

    Args:
        settings: the configuration as plain values; empty if it cannot be read.
        metrics: content of result.json; empty if the run did not finish.
        history: a row for each epoch.
        folder: the run folder; None for a run in a store of results, which has no weights.
        error: reason why the run did not finish, or empty.
        analysis: tables that a report wrote into the folder, or empty.
        weights_file: name of the file in the folder that contains the network.
        fit: the network, if it is not in a folder.
        label: the title among other runs, see `titles.distinguished`; empty for the default.
    """

    settings: dict[str, Any]
    metrics: dict[str, Any]
    history: pd.DataFrame
    folder: Path | None = None
    error: str = ""
    analysis: dict[str, Any] = field(default_factory=dict)
    weights_file: str = folders.WEIGHTS
    fit: Fit | None = None
    label: str = ""

    @cached_property
    def config(self) -> Config:
        """The configuration."""
        return Config.from_dict(self.settings)

    @cached_property
    def _tensors(self) -> tuple[Weights, Masks, dict[str, Tensor]]:
        if self.fit is not None:
            return self.fit.weights, self.fit.masks, self.fit.buffers
        if self.folder is None or self.error:
            raise RunError(f"{self.id} has no weights: it is not a finished run in a folder")
        return folders.read_weights(self.folder / self.weights_file)

    @cached_property
    def model(self) -> Any:  # noqa: ANN401  (a BayesianModule, or the model of the fit)
        """The Pyro model."""
        if self.fit is not None:
            return self.fit.model
        m = self.metrics
        try:
            outputs = m["num_classes"] if "num_classes" in m else m["num_outputs"]
            model = build_model(self.config, m["shape"], outputs, m["num_train"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(f"{type(error).__name__} {error}".split())
            raise RunError(f"{self.folder}/result.json is damaged: no model ({reason})") from None
        set_buffers(model, self.buffers)
        return model

    @property
    def weights(self) -> Weights:
        """The value of each latent site; pruned weights are zero."""
        return self._tensors[0]

    @property
    def masks(self) -> Masks:
        """A bool tensor for each prunable site, True where a weight is kept."""
        return self._tensors[1]

    @property
    def buffers(self) -> dict[str, Tensor]:
        """The buffers of the module."""
        return self._tensors[2]

    @property
    def temperature(self) -> float:
        """The divisor of the log likelihood in training and decisions."""
        return self.config.temperature

    @property
    def id(self) -> str:
        """The id of the run, or the name of its folder."""
        return str(self.metrics.get("id") or (self.folder.name if self.folder else "?"))

    @property
    def title(self) -> str:
        """The name of the run in tables."""
        if self.label:
            return self.label
        settings = {"dataset": "?", "network": "?", "sparsity": "", "seed": "?"} | self.settings
        names = (settings["dataset"], settings["network"], self.metrics.get("method", "run"))
        level = () if self.dense else (settings["sparsity"],)
        return f"{' '.join(map(str, (*names, *level)))}, seed {settings['seed']}"

    @property
    def pair(self) -> tuple[Any, Any]:
        """Data set and network."""
        return self.settings.get("dataset"), self.settings.get("network")

    @property
    def dense(self) -> bool:
        """Whether the run does not prune, as a control."""
        return not self.settings.get("sparsity", 1)

    @property
    def is_configured(self) -> bool:
        """Whether the run was made from a configuration, unlike a fit in Python."""
        return set(self.settings) >= {"objective", "prior"}

    @property
    def score(self) -> str:
        """Name of the score of the predictions: accuracy of classes, or rmse of other targets."""
        parts = (self.metrics.get(f"{part}_rmse") for part in ("validation", "test"))
        return "rmse" if any(value is not None for value in parts) else "accuracy"

    @property
    def test_score(self) -> float | None:
        """Test accuracy or RMSE; None without a test set."""
        return self.metrics.get(f"test_{self.score}")

    @property
    def accuracy(self) -> float | None:
        """Test accuracy; None without a test set of classes."""
        return self.metrics.get("test_accuracy")

    def predict_proba(self, x: Tensor) -> Tensor:
        """Return class probabilities (n, ..., classes) of inputs (n, ...)."""
        return class_probabilities(self.model, self.weights, x)

    def summary(self) -> dict[str, str]:
        """Return the score, the test loss (nats per example), the sparsity and the decisions."""
        if self.error:
            return {"not finished": self.error.strip().splitlines()[-1]}
        m, target = self.metrics, missed_target(self.history)
        missed = {} if target is None else {"target not reached:": f"{target:.4f}"}
        return {
            f"test {self.score}": _four_digits(self.test_score),
            "test loss": _four_digits(m.get("test_loss")),
            "sparsity": f"{m['achieved_sparsity']:.4f}",
            "compression": f"{m['compression_ratio']:.1f}x",
            **missed,
            "steps": ", ".join(f"{m[d]} {d}" for d in ("pruned", "refused", "unchanged")),
        }

    def __repr__(self) -> str:
        """Summarise accuracy, sparsity and decisions; the loss is in nats per example."""
        if self.error:
            return f"Run({self.title}; not finished: {self.summary()['not finished']})"
        *values, steps = (f"{name} {value}" for name, value in self.summary().items())
        name, seconds = f"{self.pair[0]} {self.pair[1]}", self._duration()
        parts = (f"{name} {self.metrics['method']}", ", ".join(values), steps, seconds, self.folder)
        return f"Run({'; '.join(map(str, parts))})"

    def _duration(self) -> str:
        threads = (self.metrics.get("machine") or {}).get("threads", "unknown")
        return f"{self.metrics['seconds']:.0f} s, threads: {threads}"

    def _repr_html_(self) -> str:
        """Return the same as a table, for notebooks."""
        return table_html(self.title, self.summary() | {"folder": str(self.folder)})


def _four_digits(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"  # result.json has null for NaN


def load_run(folder: str | Path, weights: str = folders.WEIGHTS) -> Run:
    """Return the finished run in a folder, with its network.

    Args:
        folder: the run folder.
        weights: name of the file with the network; `bayesprune prune` writes further ones.

    Raises:
        RunError: if it is not a finished run, or damaged.
    """
    run = replace(_read(path_of(folder)), weights_file=weights)
    _ = run.weights, run.model  # reads the network, so that damage raises an error here
    return run


def _read(folder: Path) -> Run:
    config, metrics = folders.read_config(folder), folders.read_result(folder)
    run = Run(config.to_dict(), metrics, folders.read_history(folder), folder)
    try:
        return replace(run, analysis=folders.read_analysis(folder))
    except RunError as error:  # the run itself is whole
        warnings.warn(str(error), RuntimeWarning, stacklevel=2)
        return run


def load_runs(folder: str | Path) -> list[Run]:
    """Return the runs in a folder, finished or failed. Networks are read when they are used.

    Args:
        folder: a run folder, a folder of run folders, or a store of results.

    Raises:
        RunError: if there are no runs.
    """
    folder = path_of(folder)
    if (folder / "config.json").exists():
        return [_read_any(folder)]
    if (folder / results.RESULTS).exists():
        return _read_store(folder)
    inside = sorted(path.parent for path in folder.glob("*/config.json"))
    if not inside:
        expected = f"a run folder, a folder of them, or one with a {results.RESULTS}"
        problem = "contains none" if folder.is_dir() else "is not a folder"
        raise RunError(f"expected {expected}; {folder} {problem}")
    return [_read_any(path) for path in inside]


def _read_any(folder: Path) -> Run:
    """Return one run, with an error if it cannot be read completely."""
    settings: dict[str, Any] = {}
    try:
        settings = folders.read_config(folder).to_dict()
        return _read(folder)
    except RunError as error:
        trace = folder / "error.txt"
        text = trace.read_text(errors="replace") if trace.exists() else str(error)
        return Run(settings, {}, pd.DataFrame(), folder, error=text or "unknown")


def _read_store(folder: Path) -> list[Run]:
    frame, histories = results.load_results(folder), results.load_histories(folder)
    by_id = dict(tuple(histories.groupby("id")))
    runs = []
    for row in frame.to_dict("records"):
        values = {str(name): _parsed(value) for name, value in row.items()}
        settings = {name: values[name] for name in Config.__dataclass_fields__ if name in values}
        if settings.get("restart", "no") != "no":  # a store counts the epochs of all trainings
            settings["epochs"] //= settings.get("rounds", 1) + 1
        runs.append(Run(settings, values, by_id.get(values["id"], pd.DataFrame())))
    return runs


def _parsed(value: Any) -> Any:  # noqa: ANN401
    """Return the value of a CSV cell: lists and objects from JSON, and None for an empty cell."""
    if isinstance(value, str) and value[:1] in ("[", "{"):
        return json.loads(value)
    return None if isinstance(value, float) and value != value else value
