"""Statistics over seeds: means with intervals, paired differences, and unpruned twins."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from pyro_bayesprune.experiments.results import GROUP, SETTINGS

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
