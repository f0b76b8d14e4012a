"""Results of many runs as data frames, with a row for each run or for each run and epoch."""

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock

from pyro_bayesprune._utils.files import path_of, write_atomically
from pyro_bayesprune.experiments import folders
from pyro_bayesprune.experiments.config import ADDED, WORDS, Config
from pyro_bayesprune.experiments.errors import RunError

RESULTS, HISTORIES = "results.csv", "histories.csv.gz"
# These columns are text: pandas would read the commit 31391e7 as a number.
TEXTS = dict.fromkeys(("id", "target_column", "commit", "weights_sha256"), str)
GROUP = ["dataset", "network", "method", "sparsity"]
FIRST = [*GROUP, "seed", "test_accuracy", "achieved_sparsity"]
SETTINGS = list(Config.__dataclass_fields__)


def row(folder: Path) -> dict[str, Any]:
    """Return the configuration and result of a finished run as one row, nested values as JSON."""
    values = folders.read_config(folder).to_dict() | folders.read_result(folder)
    flat = {k: json.dumps(v) if isinstance(v, (dict, list)) else v for k, v in values.items()}
    return {name: flat[name] for name in FIRST if name in flat} | flat


def _read(path: Path) -> pd.DataFrame:
    """Return the table in a file of a store; raise a RunError if it is damaged."""
    try:
        table = pd.read_csv(path, engine="python", dtype=TEXTS)
        if "id" not in table:
            raise ValueError(f"it has no column id, only {', '.join(map(str, table))}")
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise RunError(f"{path} is damaged: {error}") from None
    return table


def load_results(folder: str | Path) -> pd.DataFrame:
    """Return a row for each run.

    Args:
        folder: a folder of run folders, or of a results.csv that `record` wrote.

    Raises:
        RunError: if there are no results.
    """
    folder = path_of(folder)
    if not (folder / RESULTS).exists():
        return pd.DataFrame([row(run) for run in _finished_runs(folder)])
    results = _read(folder / RESULTS)
    # Rows that are older than a setting were produced with its default.
    added = {name: getattr(Config, name) for name in ADDED if name in results}
    results = results.fillna(added).astype({name: type(value) for name, value in added.items()})
    for name, word in WORDS.items():  # if one is a word, pandas reads all of them as text
        if name in results:
            results[name] = [v if v == word else float(v) for v in results[name]]
    return results


def load_histories(folder: str | Path) -> pd.DataFrame:
    """Return a row for each run and epoch, with the ``id`` and the description of the run.

    Raises:
        RunError: if there are no results.
    """
    folder = path_of(folder)
    if (folder / RESULTS).exists():
        return _read(folder / HISTORIES)
    return pd.concat([history(run) for run in _finished_runs(folder)], ignore_index=True)


def _finished_runs(folder: Path) -> list[Path]:
    runs = [path.parent for path in sorted(folder.glob("*/result.json"))]
    if not runs:
        raise RunError(f"no finished runs in {folder}")
    return runs


def history(folder: Path) -> pd.DataFrame:
    """Return the history of one finished run, preceded by columns that describe the run.

    The column ``sparsity`` contains the sparsity after each epoch, and ``level`` the run's target.
    """
    values, frame = row(folder), folders.read_history(folder)
    values["level"] = values["sparsity"]
    names = ["id", "level", "dataset", "network", "method", "seed"]
    return frame.assign(**{name: values[name] for name in names})[[*names, *frame]]


def known_ids(store: str | Path) -> set[str]:
    """Return the ids of the runs in a store of results."""
    path = path_of(store) / RESULTS
    return set(_read(path)["id"]) if path.exists() else set()


def record(store: str | Path, folder: Path) -> None:
    """Add a finished run to a store: results.csv and histories.csv.gz are replaced atomically.

    A store is small enough for version control. It does not contain weights.
    """
    store, values = path_of(store), row(folder)
    store.mkdir(parents=True, exist_ok=True)
    with FileLock(store / ".lock"):  # several grids may add to a store
        if values["id"] in known_ids(store):
            return
        results, histories = pd.DataFrame([values]), history(folder)
        if (store / RESULTS).exists():
            results = pd.concat([load_results(store), results], ignore_index=True)
            others = load_histories(store)  # a killed process may have written only the history
            others = others[others["id"] != values["id"]]
            histories = pd.concat([others, histories], ignore_index=True)
        content = gzip.compress(histories.to_csv(index=False).encode(), mtime=0)
        write_atomically(store / HISTORIES, content)
        write_atomically(store / RESULTS, results.to_csv(index=False).encode())
