"""Results of many runs as data frames: a row for each run, or for each run and epoch."""

import gzip
import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd

from pyro_bayesprune._utils import files
from pyro_bayesprune.experiments import folders
from pyro_bayesprune.experiments.config import ADDED, Config
from pyro_bayesprune.experiments.errors import RunError

RESULTS, HISTORIES = "results.csv", "histories.csv.gz"
TEXTS = {name: str for name in ("id", "commit", "weights_sha256")}  # 31391e7 is no number
GROUP = ["dataset", "network", "method", "sparsity"]
FIRST = [*GROUP, "seed", "test_accuracy", "achieved_sparsity"]
SETTINGS = [field.name for field in fields(Config)]


def row(folder: Path) -> dict[str, Any]:
    """Return a finished run as one row: configuration and result; nested values as JSON."""
    values = folders.read_config(folder).to_dict() | folders.read_result(folder)
    flat = {k: json.dumps(v) if isinstance(v, (dict, list)) else v for k, v in values.items()}
    return {name: flat[name] for name in FIRST if name in flat} | flat


def _finished(folder: Path) -> Iterator[Path]:
    return (path.parent for path in sorted(folder.glob("*/result.json")))


def load_results(folder: str | Path) -> pd.DataFrame:
    """Return a row a run.

    Args:
        folder: run folders lie in it, or a results.csv that `record` wrote.

    Raises:
        RunError: if there are no results.
    """
    folder = Path(folder)
    if (folder / RESULTS).exists():
        results = _completed(pd.read_csv(folder / RESULTS, engine="python", dtype=TEXTS))
        if "sparsity" in results:
            results["sparsity"] = [_level(value) for value in results["sparsity"]]
        return results
    rows = [row(path) for path in _finished(folder)]
    if not rows:
        raise RunError(f"no finished runs in {folder}")
    return pd.DataFrame(rows)


def _level(value: Any) -> float | str:  # noqa: ANN401
    """Return a target sparsity as a number; beside an ``auto`` the whole column is read as text."""
    return "auto" if value == "auto" else float(value)


def _completed(results: pd.DataFrame) -> pd.DataFrame:
    """Give settings that are younger than some of the rows the default, which held for these."""
    younger = {f.name: f.default for f in fields(Config) if f.name in ADDED and f.name in results}
    return results.fillna(younger).astype({name: type(value) for name, value in younger.items()})


def load_histories(folder: str | Path) -> pd.DataFrame:
    """Return a row a run and epoch, with the run's ``id`` and what names it.

    Raises:
        RunError: if there are no results.
    """
    folder = Path(folder)
    if (folder / HISTORIES).exists():
        return pd.read_csv(folder / HISTORIES, engine="python", dtype=TEXTS)
    frames = [history(path) for path in _finished(folder)]
    if not frames:
        raise RunError(f"no finished runs in {folder}")
    return pd.concat(frames, ignore_index=True)


def history(folder: Path) -> pd.DataFrame:
    """Return the history of one finished run, with what names the run in front.

    The history's ``sparsity`` (what an epoch reached) is kept; the run's target is ``level``.
    """
    whole = row(folder)
    frame = folders.read_history(folder)
    names = {"id": whole["id"], "level": whole["sparsity"]}
    names |= {name: whole[name] for name in ("dataset", "network", "method", "seed")}
    for position, (name, value) in enumerate(names.items()):
        frame.insert(position, name, value)
    return frame


def known_ids(store: str | Path) -> set[str]:
    """Return the ids of the runs that a store of results holds."""
    path = Path(store) / RESULTS
    return set(pd.read_csv(path, usecols=["id"], dtype=TEXTS)["id"]) if path.exists() else set()


def record(store: str | Path, folder: Path) -> None:
    """Add a finished run to a store: results.csv and histories.csv.gz, rewritten atomically.

    A store is small enough to be kept under version control; weights stay in the run folders.
    """
    store, new = Path(store), row(folder)
    results, histories = pd.DataFrame([new]), history(folder)
    if new["id"] in known_ids(store):
        return
    if (store / RESULTS).exists():
        results = pd.concat([load_results(store), results], ignore_index=True)
        histories = pd.concat([load_histories(store), histories], ignore_index=True)
    content = gzip.compress(histories.to_csv(index=False).encode(), mtime=0)
    files.write_atomically(store / HISTORIES, content)
    files.write_atomically(store / RESULTS, results.to_csv(index=False).encode())
