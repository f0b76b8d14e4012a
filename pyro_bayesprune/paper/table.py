"""The paper's Table 1, made from a store of runs, with the paper's numbers for comparison."""

import html
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any

import pandas as pd

from pyro_bayesprune import plots
from pyro_bayesprune._utils.tables import table_markdown
from pyro_bayesprune.experiments.config import METHODS, configure
from pyro_bayesprune.experiments.designs import PAPER
from pyro_bayesprune.experiments.results import GROUP, SETTINGS
from pyro_bayesprune.experiments.statistics import summary

DATASETS = PAPER["dataset"]
DENSE = ("unpruned", "bayes_unpruned")
PRUNED = ("random", "bayes_random", "magnitude", "bayes_magnitude")
COLUMNS = (*DENSE, *PRUNED)
ORDER = [*DATASETS, "fcn", "cnn", *COLUMNS]  # of data sets, networks and methods in the table
BY_METHOD = {name for expansion in METHODS.values() for name in expansion} | {*GROUP, "seed"}
COMMON = [name for name in SETTINGS if name not in BY_METHOD]  # no method determines these
HALF_DIGIT = 0.00005  # the paper states four decimals
MARK = "\\*"


def one_variant(results: pd.DataFrame) -> pd.DataFrame:
    """Return the runs of the paper's methods that agree in all other settings.

    A store may also contain control runs, for example with other widths or with regrowth. If runs
    differ in a setting that no method determines, those with the value of the preset ``paper`` are
    selected.

    Args:
        results: one row per run.

    Raises:
        ValueError: if no run remains, or if runs differ in a setting and none has the value of the
            preset.
    """
    frame = results[results["method"].isin(list(METHODS))]
    preset = configure("paper").to_dict()
    for name in (name for name in COMMON if name in frame):
        texts = frame[name].astype(str).str.lower()
        if texts.nunique() > 1:
            as_preset = texts == str(preset[name]).lower()
            if not as_preset.any():
                values = ", ".join(sorted(texts.unique()))
                raise ValueError(f"the runs differ in {name} ({values}): put them in two folders")
            frame = frame[as_preset]
    if frame.empty:
        raise ValueError("there are no runs of the paper's methods")
    return frame


def paper_table1() -> pd.DataFrame:
    """Return the paper's Table 1: ``dataset, network, method, sparsity, accuracy``."""
    with (resources.files("pyro_bayesprune.paper") / "table1.csv").open() as content:
        return pd.read_csv(content)


def table1(results: pd.DataFrame) -> pd.DataFrame:
    """Return Table 1 in long form: our test accuracies and the paper's, one row per cell.

    Args:
        results: one row per run, as returned by `load_results`.

    Returns:
        For each data set and network that has runs: ``mean``, ``std`` (sample standard deviation
        over seeds), ``low`` and ``high`` (95% t-interval of the mean), ``seeds``,
        ``achieved_sparsity``, ``paper``, ``difference`` (ours minus the paper's) and ``outside``:
        whether the paper's rounded mean lies outside our interval (with 3 seeds or more).

    Raises:
        ValueError: if the selection of runs is not unique; see `one_variant`.
    """
    results = one_variant(results)
    ours = summary(results, ["test_accuracy"]).drop(columns="measure")
    zeros = summary(results, ["achieved_sparsity"]).rename(columns={"mean": "achieved_sparsity"})
    ours = ours.merge(zeros[[*GROUP, "achieved_sparsity"]], on=GROUP)
    paper = paper_table1().rename(columns={"accuracy": "paper"})
    paper = paper.merge(ours[["dataset", "network"]].drop_duplicates())
    table = ours.merge(paper, on=GROUP, how="outer")
    table["seeds"] = table["seeds"].fillna(0).astype(int)
    table["difference"] = table["mean"] - table["paper"]
    below = table["paper"] + HALF_DIGIT < table["low"]
    above = table["paper"] - HALF_DIGIT > table["high"]
    table["outside"] = (below | above) & (table["seeds"] >= 3)
    by = ["dataset", "network", "sparsity", "method"]
    return table.sort_values(by, key=_positions, kind="stable", ignore_index=True)


def _positions(column: pd.Series) -> pd.Series:
    """Return the positions of values in the paper's order. Values that it lacks are the last."""
    if column.name == "sparsity":
        return column
    return column.map({value: place for place, value in enumerate(ORDER)}).fillna(len(ORDER))


def _wide(table: pd.DataFrame, newline: str) -> pd.DataFrame:
    """Return the table as text in the paper's layout: one row per level, one column per method."""
    table = table.assign(text=[_cell(row, newline) for row in table.itertuples()])
    rows = []
    for (dataset, network), block in table.groupby(["dataset", "network"], sort=False):
        dense = block[block["sparsity"] == 0]
        levels = list(block[block["sparsity"] != 0].groupby("sparsity")) or [(0.0, dense)]
        for number, (level, runs) in enumerate(levels):
            row_runs = runs if number else pd.concat([dense, runs])  # dense in the first row only
            cells = dict(zip(row_runs["method"], row_runs["text"], strict=True))
            rows.append(
                {
                    "dataset": dataset,
                    "network": str(network).upper(),
                    "sparsity": plots.percent(level),
                }
                | {plots.label(method): cells.get(method, "") for method in COLUMNS}
                | {"seeds": _range(runs["seeds"], "d")}
                | {"achieved sparsity": _range(runs["achieved_sparsity"].dropna(), ".4f")}
            )
    return pd.DataFrame(rows)


def _cell(row: Any, newline: str) -> str:  # noqa: ANN401  (a named tuple)
    paper = "" if pd.isna(row.paper) else f"paper {row.paper:.4f}"
    if not row.seeds:
        return f"–{newline}{paper}"
    spread = "" if pd.isna(row.std) else f" ± {row.std:.4f}"
    comparison = f"{newline}{paper} ({row.difference:+.4f})" if paper else ""
    return f"{row.mean:.4f}{spread}{MARK if row.outside else ''}{comparison}"


def _range(values: pd.Series, form: str) -> str:
    texts = [format(value, form) for value in (values.min(), values.max())] if len(values) else []
    return " to ".join(dict.fromkeys(texts))


def notes(results: pd.DataFrame) -> list[str]:
    """Return the notes below Table 1: how to read it, and the settings of the runs.

    Args:
        results: one row per run, as returned by `load_results`.
    """
    frame = one_variant(results)
    names = [name for name in COMMON if name in frame and frame[name].nunique() == 1]
    settings = ", ".join(f"{name} {frame[name].iloc[0]}" for name in names)
    template = (resources.files("pyro_bayesprune.paper") / "notes.txt").read_text(encoding="utf-8")
    return template.format(mark=MARK, settings=settings).splitlines()


def markdown(table: pd.DataFrame, notes: Sequence[str] = ()) -> str:
    """Return Table 1 as Markdown."""
    wide = _wide(table, "<br>")
    body = table_markdown(map(str, wide), wide.to_numpy().tolist())
    return "\n".join([body, "", *(f"{note}\n" for note in notes)])


def as_html(table: pd.DataFrame, notes: Sequence[str] = ()) -> str:
    """Return Table 1 as an HTML fragment: a table and its notes."""
    wide = _wide(table, "\n").map(lambda text: html.escape(text).replace("\n", "<br>"))
    body = wide.to_html(index=False, escape=False, border=0, classes="table1")
    text = "\n".join([body, *(f"<p>{html.escape(note)}</p>" for note in notes), ""])
    return text.replace(MARK, "*")


def csv(table: pd.DataFrame, notes: Sequence[str] = ()) -> str:
    """Return Table 1 as CSV: one row per cell, with all columns and without notes."""
    return table.to_csv(index=False)


FORMATS: dict[str, Callable[..., str]] = {"markdown": markdown, "html": as_html, "csv": csv}
