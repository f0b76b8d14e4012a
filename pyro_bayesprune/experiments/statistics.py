"""Statistics over seeds: means with intervals, and comparisons with unpruned twins."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from pyro_bayesprune.experiments.results import GROUP, SETTINGS

MEASURES = (
    "test_accuracy test_rmse test_loss test_brier test_ece test_coverage_50 test_coverage_90 "
    "achieved_sparsity compression_ratio theoretical_speedup"
).split()
# The settings in which a run may differ from its unpruned twin.
PRUNING_SETTINGS = (
    "sparsity criterion gate beta per scope schedule regrow evaluation alpha update judge restart "
    "rounds rewind_epoch"
).split()
PARTS = {"log_bf": "log_joint_after", "log_likelihood_ratio": "log_likelihood_after"}
PARTS |= {"log_prior_ratio": "log_prior_after"}


def varying(results: pd.DataFrame) -> list[str]:
    """Return the settings, except the seed, in which runs of one cell of Table 1 differ.

    A store may contain several variants of a cell, for example with other epochs. Statistics never
    average over these settings.
    """
    groups = results.groupby([name for name in GROUP if name in results], dropna=False)
    others = [n for n in SETTINGS if n in results and n not in (*GROUP, "seed")]
    return [name for name in others if groups[name].nunique(dropna=False).gt(1).any()]


def describe(values: pd.Series) -> dict[str, float]:
    """Return mean, standard deviation and 95% t-interval.

    The interval is NaN for a single value and for equal values, which show no spread.
    """
    low = high = np.nan
    if len(values) > 1 and not np.allclose(values, values.iloc[0], rtol=1e-12, atol=1e-15):
        low, high = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    std = values.std(ddof=1)
    return {"mean": values.mean(), "std": std, "low": low, "high": high, "seeds": len(values)}


def summary(results: pd.DataFrame, measures: Sequence[str] | None = None) -> pd.DataFrame:
    """Summarise runs over seeds, with a row for each configuration and measure.

    Args:
        results: a row for each run, as from `load_results`.
        measures: columns to summarise, by default the available ones of `MEASURES`.

    Returns:
        The columns that identify the configuration (including all settings that vary),
        ``measure``, ``mean``, ``std`` (sample standard deviation), ``low`` and ``high`` (95%
        t-interval of the mean) and ``seeds``, in the units of the measure.

    Raises:
        ValueError: if a configuration occurs twice with the same seed.
    """
    by = GROUP + varying(results)
    duplicates = results.loc[results.duplicated([*by, "seed"]), [*by, "seed"]]
    if len(duplicates):
        text = ", ".join(f"{name}={value}" for name, value in duplicates.iloc[0].items())
        raise ValueError(f"the results contain more than one run of {text}")
    names = list(measures or [name for name in MEASURES if name in results])
    rows = [
        dict(zip(by, key, strict=True)) | {"measure": name} | describe(values)
        for key, runs in results.groupby(by, dropna=False)
        for name in names
        if len(values := runs[name].dropna())
    ]
    return pd.DataFrame(rows, columns=[*by, "measure", "mean", "std", "low", "high", "seeds"])


def twins(histories: pd.DataFrame, results: pd.DataFrame) -> pd.DataFrame:
    """Return the histories with the log Bayes factor of each epoch against the unpruned twin.

    The twin is the unpruned run with the same settings except those of pruning: the same data,
    network, objective, prior and seed. The log joints at the end of the same epoch are compared.
    They belong to two points of two trainings, so the factor is a posterior odds and not a ratio
    of evidences.

    Args:
        histories: a row for each run and epoch, as from `load_histories`.
        results: a row for each run, with its settings.

    Returns:
        The histories and ``twin_log_bf`` = ``twin_log_likelihood_ratio`` + ``twin_log_prior_ratio``
        (nats over the data set) and ``twin_bf_per_datum`` (the N-th root of the factor). They are
        NaN without an unpruned run. An unpruned run is its own twin.
    """
    shared = [n for n in SETTINGS if n in results and n not in PRUNING_SETTINGS]
    frame = histories[["id", "epoch", *PARTS.values()]].merge(
        results[["id", "num_train", "sparsity", *shared]].astype({"sparsity": object}), on="id"
    )
    dense = frame[pd.to_numeric(frame["sparsity"], errors="coerce") == 0]
    dense = dense.drop_duplicates([*shared, "epoch"]).drop(columns=["id", "num_train", "sparsity"])
    both = frame.merge(dense, on=[*shared, "epoch"], how="left", suffixes=("", "_dense"))
    columns = both[["id", "epoch"]].assign(
        **{f"twin_{name}": both[part] - both[f"{part}_dense"] for name, part in PARTS.items()}
    )
    with np.errstate(over="ignore"):
        columns["twin_bf_per_datum"] = np.exp(columns["twin_log_bf"] / both["num_train"])
    return histories.merge(columns, on=["id", "epoch"], how="left")
