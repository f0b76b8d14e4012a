"""Results of many runs as data frames: a row a run, a row a run and epoch; their statistics."""

import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from pyro_bayesprune import runs
from pyro_bayesprune.config import ADDED, Config, RunError

RESULTS, HISTORIES = "results.csv", "histories.csv.gz"
TEXTS = {name: str for name in ("id", "commit", "weights_sha256")}  # 31391e7 is no number
GROUP = ["dataset", "network", "method", "sparsity"]
FIRST = [*GROUP, "seed", "test_accuracy", "achieved_sparsity"]
MEASURES = (
    "test_accuracy",
    "test_loss",
    "test_brier",
    "test_ece",
    "achieved_sparsity",
    "compression_ratio",
    "theoretical_speedup",
)
PAIRS = (
    ("bayes_random", "random"),
    ("bayes_magnitude", "magnitude"),
    ("magnitude", "random"),
    ("magnitude", "unpruned"),
    ("bayes_magnitude", "bayes_unpruned"),
    ("bayes_unpruned", "unpruned"),
)
SETTINGS = [field.name for field in fields(Config)]
# what decides which weights are pruned; every other setting a run shares with its unpruned twin
PRUNING_SETTINGS = {
    "sparsity",
    "criterion",
    "gate",
    "beta",
    "per",
    "scope",
    "schedule",
    "regrow",
    "evaluation",
    "alpha",
    "restart",
}
PARTS = {
    "log_bf": "log_joint_after",
    "log_likelihood_ratio": "log_likelihood_after",
    "log_prior_ratio": "log_prior_after",
}


def row(folder: Path) -> dict[str, Any]:
    """Return a finished run as one row: configuration and result; nested values as JSON."""
    values = runs.read_config(folder).to_dict() | runs.read_result(folder)
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
    frame = runs.read_history(folder)
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
    runs.write_atomically(store / HISTORIES, content)
    runs.write_atomically(store / RESULTS, results.to_csv(index=False).encode())


def varying(results: pd.DataFrame) -> list[str]:
    """Return the settings, other than the seed, in which runs of one cell of Table 1 differ.

    A store may hold a cell more than once (with other epochs, with regrowth): these are never
    averaged over.
    """
    groups = results.groupby([name for name in GROUP if name in results], dropna=False)
    others = [n for n in SETTINGS if n in results and n not in (*GROUP, "seed")]
    return [name for name in others if groups[name].nunique(dropna=False).gt(1).any()]


def t_interval(values: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Return the t-interval of a mean; NaN for a single value.

    Example:
        >>> low, high = t_interval([1.0, 2.0, 3.0])
        >>> round(low, 3), round(high, 3)
        (-0.484, 4.484)
    """
    seen = np.asarray(values, dtype=float)
    n, mean = len(seen), seen.mean()
    if n < 2:
        return np.nan, np.nan
    half = stats.t.ppf((1 + confidence) / 2, n - 1) * seen.std(ddof=1) / np.sqrt(n)
    return float(mean - half), float(mean + half)


def _spread(values: pd.Series, confidence: float) -> dict[str, float]:
    low, high = t_interval(values.to_numpy(), confidence)
    return {
        "mean": values.mean(),
        "std": values.std(ddof=1),
        "low": low,
        "high": high,
        "seeds": len(values),
    }


def summary(
    results: pd.DataFrame, measures: Sequence[str] | None = None, confidence: float = 0.95
) -> pd.DataFrame:
    """Summarise over seeds: a row for each configuration and measure.

    Args:
        results: a row a run, as `load_results` gives them.
        measures: columns to summarise; by default those of `MEASURES` that are there.
        confidence: of the t-intervals of the mean, over seeds.

    Returns:
        What names the configuration (and the settings that vary besides), ``measure``, ``mean``,
        ``std`` (sample standard deviation), ``low`` and ``high`` (t-interval), ``seeds``; in the
        measure's own units.

    Raises:
        ValueError: if a configuration occurs twice with one seed.
    """
    by = GROUP + varying(results)
    _check_once(results, [*by, "seed"])
    names = list(measures or [name for name in MEASURES if name in results])
    rows = [
        dict(zip(by, key, strict=True)) | {"measure": name} | _spread(values, confidence)
        for key, runs_ in results.groupby(by, dropna=False)
        for name in names
        if len(values := runs_[name].dropna())
    ]
    return pd.DataFrame(rows, columns=[*by, "measure", "mean", "std", "low", "high", "seeds"])


def _check_once(results: pd.DataFrame, by: Sequence[str]) -> None:
    twice = results[results.duplicated(list(by))]
    if len(twice):
        values = ", ".join(f"{name}={twice.iloc[0][name]}" for name in by)
        raise ValueError(f"the results hold more than one run of {values}")


def paired(
    results: pd.DataFrame,
    pairs: Sequence[tuple[Any, Any]] = PAIRS,
    *,
    column: str = "method",
    measure: str = "test_accuracy",
    correction: Literal["by", "bh"] = "by",
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Compare by seed: differences, first minus second, over the seeds that both have.

    Methods of a seed share initial weights and data order, so their difference varies less than
    either. A method that prunes nothing is compared with every sparsity of the other.

    Args:
        results: a row a run, as `load_results` gives them.
        pairs: values of ``column`` to compare; pairs that are not in the results are left out.
        column: ``method``, or any other setting (``gate``, ``regrow``, …).
        measure: column to compare.
        correction: of the p-values for the number of comparisons in the table, to a false discovery
            rate: ``by`` (Benjamini-Yekutieli, whatever depends on what: comparisons here share
            runs) or ``bh`` (Benjamini-Hochberg, more power, for independent ones).
        confidence: of the t-intervals, each taken by itself.

    Returns:
        A row for each pair and configuration: ``difference`` (mean), ``std``, ``low``, ``high``,
        ``seeds``, ``p`` (two-sided paired t-test; NaN for one seed), ``p_corrected``.
    """
    by = _alike(results, column)
    blocks = [_differences(results, pair, by, column, measure) for pair in pairs]
    keys = ["first", "second", *by]
    rows = [
        dict(zip(keys, key, strict=True)) | _tested(block["difference"], confidence)
        for block in blocks
        for key, block in block.groupby(keys, dropna=False)
    ]
    names = [*keys, "difference", "std", "low", "high", "seeds", "p"]
    table = pd.DataFrame(rows, columns=names)
    return table.assign(p_corrected=_corrected(table["p"].to_numpy(dtype=float), correction))


def _alike(results: pd.DataFrame, column: str) -> list[str]:
    """Return what two runs that differ in ``column`` must have in common, besides the seed."""
    others = varying(results)
    if column != "method":  # a method stands for several settings; anything else for itself
        known = [name for name in SETTINGS if name in results and name not in GROUP]
        others = [name for name in known if results[name].nunique(dropna=False) > 1]
    by = [name for name in GROUP if name != "method"] + others
    return [name for name in by if name not in (column, "seed")]


def _differences(
    results: pd.DataFrame, pair: tuple[Any, Any], by: list[str], column: str, measure: str
) -> pd.DataFrame:
    first, second = (results[results[column] == value] for value in pair)
    free = [n for n in by if n == "sparsity" and second[n].eq(0).all() and first[n].ne(0).any()]
    on = [name for name in (*by, "seed") if name not in free]
    for part in (first, second):
        _check_once(part, [*by, "seed"])
    both = first[[*by, "seed", measure]].merge(second[[*on, measure]], on=on, suffixes=("", "_2"))
    difference = both[measure] - both[f"{measure}_2"]
    return both.assign(first=pair[0], second=pair[1], difference=difference)


def _tested(differences: pd.Series, confidence: float) -> dict[str, float]:
    spread = _spread(differences, confidence)
    mean, error = spread.pop("mean"), spread["std"] / np.sqrt(len(differences))
    if error > 0:
        p = float(2 * stats.t.sf(abs(mean) / error, len(differences) - 1))
    else:  # one seed says nothing; equal differences leave no doubt
        p = np.nan if len(differences) < 2 else float(mean == 0)
    return {"difference": mean, **spread, "p": p}


def _corrected(p: np.ndarray, method: Literal["by", "bh"]) -> np.ndarray:
    tested = ~np.isnan(p)
    corrected = np.full_like(p, np.nan)
    if tested.any():
        corrected[tested] = stats.false_discovery_control(p[tested], method=method)
    return corrected


def twins(histories: pd.DataFrame, results: pd.DataFrame) -> pd.DataFrame:
    """Return the histories with each epoch's log Bayes factor against the unpruned twin.

    The twin is the unpruned run with the same settings but for those of pruning: same data,
    network, objective, prior and seed. Its log joint is taken at the same epoch, both at the
    epoch's end. Two points that training reached are compared: posterior odds, not evidences.

    Args:
        histories: a row a run and epoch, as `load_histories` gives them.
        results: a row a run; tells what each run's settings are.

    Returns:
        The histories and ``twin_log_bf`` = ``twin_log_likelihood_ratio`` + ``twin_log_prior_ratio``
        (nats over the data set) and ``twin_bf_per_datum`` (the factor's N-th root). NaN where there
        is no unpruned run; an unpruned run is its own twin.
    """
    alike = [n for n in SETTINGS if n in results and n not in PRUNING_SETTINGS]
    frame = histories[["id", "epoch", *PARTS.values()]].merge(
        results[["id", "num_train", "sparsity", *alike]].astype({"sparsity": object}), on="id"
    )
    dense = frame[pd.to_numeric(frame["sparsity"], errors="coerce") == 0]
    dense = dense.drop_duplicates([*alike, "epoch"]).drop(columns=["id", "num_train", "sparsity"])
    both = frame.merge(dense, on=[*alike, "epoch"], how="left", suffixes=("", "_dense"))
    columns = both[["id", "epoch"]].assign(
        **{f"twin_{name}": both[at] - both[f"{at}_dense"] for name, at in PARTS.items()}
    )
    with np.errstate(over="ignore"):
        columns["twin_bf_per_datum"] = np.exp(columns["twin_log_bf"] / both["num_train"])
    return histories.merge(columns, on=["id", "epoch"], how="left")
