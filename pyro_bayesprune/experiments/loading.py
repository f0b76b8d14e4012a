"""A run in memory, and its loader: from a run folder, a folder of them, or a store of results."""

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from torch import Tensor

from pyro_bayesprune._utils.tables import table_html
from pyro_bayesprune.experiments import folders, results
from pyro_bayesprune.experiments.build import build_model
from pyro_bayesprune.experiments.config import Config
from pyro_bayesprune.experiments.errors import RunError
from pyro_bayesprune.inference.prediction import class_probabilities
from pyro_bayesprune.models.module import BayesianModule, Masks, Weights


class _Network(NamedTuple):
    model: BayesianModule
    weights: Weights
    masks: Masks
    buffers: dict[str, Tensor]


@dataclass(frozen=True)
class Run:
    """One run: its settings, results and history, and from its folder the trained network.

    Args:
        settings: the configuration as plain values; empty where it cannot be read.
        metrics: content of result.json; empty where the run did not finish.
        history: a row an epoch.
        folder: where it lies; None for a row of a store of results, which has no weights.
        error: why it did not finish; empty where it did.
        analysis: what a report's analysis wrote into the folder; empty where none ran.
    """

    settings: dict[str, Any]
    metrics: dict[str, Any]
    history: pd.DataFrame
    folder: Path | None = None
    error: str = ""
    analysis: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def config(self) -> Config:
        """The configuration."""
        return Config.from_dict(self.settings)

    @cached_property
    def _network(self) -> _Network:
        if self.folder is None or self.error:
            raise RunError(f"{self.id} has no weights: it is no finished run in a folder")
        return _read_network(self.folder, self.config, self.metrics)

    @property
    def model(self) -> BayesianModule:
        """The Pyro model."""
        return self._network.model

    @property
    def weights(self) -> Weights:
        """A value for each latent site; pruned weights are zero."""
        return self._network.weights

    @property
    def masks(self) -> Masks:
        """A bool tensor for each prunable site, True where a weight is kept."""
        return self._network.masks

    @property
    def buffers(self) -> dict[str, Tensor]:
        """The module's buffers."""
        return self._network.buffers

    @property
    def id(self) -> str:
        """The run's id, or its folder's name."""
        return str(self.metrics.get("id") or (self.folder.name if self.folder else "?"))

    @property
    def title(self) -> str:
        """What the run is called in tables."""
        s = self.settings
        parts = [s.get("dataset", "?"), s.get("network", "?"), self.metrics.get("method", "run")]
        sparsity = "" if self.dense else f" {s.get('sparsity', '')}"
        return f"{' '.join(map(str, parts))}{sparsity}, seed {s.get('seed', '?')}"

    @property
    def pair(self) -> tuple[Any, Any]:
        """Data set and network."""
        return self.settings.get("dataset"), self.settings.get("network")

    @property
    def dense(self) -> bool:
        """Whether it was not to be pruned: a control."""
        return not self.settings.get("sparsity", 1)

    @property
    def accuracy(self) -> float | None:
        """Test accuracy, None without a test set."""
        return self.metrics.get("test_accuracy")

    def predict_proba(self, x: Tensor) -> Tensor:
        """Return class probabilities (n, classes) of inputs (n, ...)."""
        return class_probabilities(self.model, self.weights, x)

    def __repr__(self) -> str:
        """Summarise: what ran, accuracy, sparsity, decisions."""
        m = self.metrics
        if self.error:
            return f"Run({self.title}; not finished: {self.error.strip().splitlines()[-1]})"
        return (
            f"Run({' '.join(map(str, self.pair))} {m['method']}; test accuracy "
            f"{_shown(m['test_accuracy'])}, test loss {_shown(m['test_loss'])}; sparsity "
            f"{m['achieved_sparsity']:.4f}, compression {m['compression_ratio']:.1f}x; steps "
            f"{m['pruned']} pruned, {m['refused']} refused, {m['unchanged']} unchanged; "
            f"{m['seconds']:.0f} s; {self.folder})"
        )

    def _repr_html_(self) -> str:
        """Show the same in a notebook, as a table."""
        if self.error:
            return table_html(self.title, {"not finished": self.error})
        m = self.metrics
        rows = {
            "test accuracy": _shown(m.get("test_accuracy")),
            "test loss (nats an example)": _shown(m.get("test_loss")),
            "sparsity": f"{m['achieved_sparsity']:.4f}",
            "compression": f"{m['compression_ratio']:.1f}x",
            "steps": ", ".join(f"{m[d]} {d}" for d in ("pruned", "refused", "unchanged")),
            "seed": self.settings["seed"],
            "folder": self.folder,
        }
        return table_html(f"{' '.join(map(str, self.pair))} {m['method']}", rows)


def _shown(value: float | None) -> str:
    """Four digits; JSON, so result.json too, has no NaN but null."""
    return "not finite" if value is None else f"{value:.4f}"


def _read_network(folder: Path, config: Config, metrics: dict[str, Any]) -> _Network:
    weights, masks, buffers = folders.read_weights(folder)
    try:
        model = build_model(config, metrics["shape"], metrics["num_classes"], metrics["num_train"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        told = " ".join(f"{type(error).__name__} {error}".split())
        raise RunError(f"{folder / 'result.json'} is damaged: no model from it ({told})") from None
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    return _Network(model, weights, masks, buffers)


def load_run(folder: str | Path) -> Run:
    """Return the finished run in ``folder``, with its network.

    Raises:
        RunError: if it is not a finished run, or damaged.
    """
    run = _read(Path(folder))
    _ = run.weights  # damage is told here, not at the first use
    return run


def _read(folder: Path) -> Run:
    config, metrics = folders.read_config(folder), folders.read_result(folder)
    history, analysis = folders.read_history(folder), folders.read_analysis(folder)
    return Run(config.to_dict(), metrics, history, folder, analysis=analysis)


def load_runs(folder: str | Path) -> list[Run]:
    """Return the runs in a folder, finished or failed; networks are read when they are asked for.

    Args:
        folder: a run folder, a folder of run folders, or a store of results.

    Raises:
        RunError: if there are none.
    """
    folder = Path(folder)
    if (folder / "config.json").exists():
        return [_read_any(folder)]
    if (folder / results.RESULTS).exists():
        return _stored(folder)
    inside = sorted(path.parent for path in folder.glob("*/config.json"))
    if not inside:
        expected = f"a run folder, a folder of them, or one with a {results.RESULTS}"
        found = "holds none" if folder.is_dir() else "is no folder"
        raise RunError(f"expected {expected}; {folder} {found}")
    return [_read_any(path) for path in inside]


def _read_any(folder: Path) -> Run:
    """Return one run; what cannot be read becomes its error."""
    settings: dict[str, Any] = {}
    try:
        settings = folders.read_config(folder).to_dict()
        return _read(folder)
    except RunError as error:
        trace = folder / "error.txt"
        told = trace.read_text(errors="replace") if trace.exists() else str(error)
        return Run(settings, {}, pd.DataFrame(), folder, error=told or "unknown")


def _stored(folder: Path) -> list[Run]:
    """Return the runs of a store of results, which has no weights."""
    frame, histories = results.load_results(folder), results.load_histories(folder)
    by_id = dict(tuple(histories.groupby("id")))
    found = []
    for row in frame.to_dict("records"):
        values = {str(k): _parsed(v) for k, v in row.items()}
        settings = {name: values[name] for name in Config.__dataclass_fields__ if name in values}
        found.append(Run(settings, values, by_id.get(values["id"], pd.DataFrame())))
    return found


def _parsed(value: Any) -> Any:  # noqa: ANN401
    """JSON lists and objects of a CSV cell; empty cells as None."""
    if isinstance(value, str) and value[:1] in ("[", "{"):
        return json.loads(value)
    return None if isinstance(value, float) and value != value else value
