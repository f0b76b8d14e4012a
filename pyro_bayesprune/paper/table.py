"""The paper's Table 1, made from a store of runs, beside the paper's numbers."""

import html
import json
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any

import pandas as pd

from pyro_bayesprune import plots
from pyro_bayesprune._utils.tables import table_markdown
from pyro_bayesprune.experiments.config import METHODS, configure
from pyro_bayesprune.experiments.results import GROUP, SETTINGS
from pyro_bayesprune.experiments.statistics import summary

DATASETS = ("mnist", "fashion_mnist", "cifar10")
NETWORKS = ("fcn", "cnn")
DENSE = ("unpruned", "bayes_unpruned")
PRUNED = ("random", "bayes_random", "magnitude", "bayes_magnitude")
DECIDED = {name for expansion in METHODS.values() for name in expansion} | {*GROUP, "seed"}
HALF_DIGIT = 0.00005  # the paper gives four decimals
MARK = "\\*"


def one_variant(results: pd.DataFrame, where: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Return the runs of the paper's methods under one choice of all other settings.

    A store may hold controls besides (other widths, regrowth): where runs differ in a setting that
    no method decides, those with the paper preset's value are taken.

    Args:
        results: a row a run.
        where: settings to take instead, as text, e.g. ``{"regrow": "true"}``.

    Raises:
        ValueError: if runs differ in a setting, and none has the preset's value.
    """
    frame = results[results["method"].isin(list(METHODS))]
    for name, text in (where or {}).items():
        frame = frame[_texts(frame, name) == text.lower()]
    preset = configure("paper").to_dict()
    for name in (n for n in SETTINGS if n in frame and n not in DECIDED):
        found = _texts(frame, name)
        value = preset[name]
        text = (json.dumps(value) if isinstance(value, list) else str(value)).lower()
        if found.nunique() > 1 and not (found == text).any():
            values = ", ".join(sorted(found.unique()))
            raise ValueError(f"the runs differ in {name} ({values}): choose with {name}=…")
        frame = frame[found == text] if found.nunique() > 1 else frame
    if frame.empty:
        raise ValueError(f"no runs of the paper's methods with {dict(where or {})}")
    return frame


def _texts(frame: pd.DataFrame, name: str) -> pd.Series:
    if name not in frame:
        raise ValueError(f"unknown setting {name!r}: expected one of {', '.join(SETTINGS)}")
    return frame[name].map(lambda value: str(value).lower())


def paper_table1() -> pd.DataFrame:
    """Return the paper's Table 1: ``dataset, network, method, sparsity, accuracy``."""
    file = resources.files("pyro_bayesprune.paper") / "table1.csv"
    with file.open() as content:
        return pd.read_csv(content)


def table1(results: pd.DataFrame, where: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Return Table 1: our test accuracies beside the paper's, a row for each cell.

    Args:
        results: a row a run, as `load_results` gives them.
        where: which runs, if the store holds several variants; see `one_variant`.

    Returns:
        For each data set and network that has runs: ``mean``, ``std`` (sample standard deviation
        over seeds), ``low`` and ``high`` (95% t-interval of the mean), ``seeds``,
        ``achieved_sparsity``, ``paper``, ``difference`` (ours minus the paper's) and ``outside``:
        the paper's mean, as it is rounded, lies outside our interval (3 seeds or more).
    """
    results = one_variant(results, where)
    ours = summary(results, ["test_accuracy"]).drop(columns="measure")
    zeros = summary(results, ["achieved_sparsity"]).rename(columns={"mean": "achieved_sparsity"})
    ours = ours.merge(zeros[[*GROUP, "achieved_sparsity"]], on=GROUP)
    theirs = paper_table1().rename(columns={"accuracy": "paper"})
    there = theirs.merge(ours[["dataset", "network"]].drop_duplicates())
    table = ours.merge(there, on=GROUP, how="outer")
    table["seeds"] = table["seeds"].fillna(0).astype(int)
    table["difference"] = table["mean"] - table["paper"]
    off = (table["paper"] + HALF_DIGIT < table["low"]) | (
        table["paper"] - HALF_DIGIT > table["high"]
    )
    return _in_order(table.assign(outside=off & (table["seeds"] >= 3)))


def _in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Sort as the paper does."""
    orders = {"dataset": DATASETS, "network": NETWORKS, "method": (*DENSE, *PRUNED)}

    def position(column: pd.Series) -> pd.Series:
        order = orders.get(str(column.name))
        if order is None:
            return column
        return column.map(lambda value: order.index(value) if value in order else len(order))

    by = ["dataset", "network", "sparsity", "method"]
    return table.sort_values(by, key=position, kind="stable", ignore_index=True)


def _wide(table: pd.DataFrame, line: str) -> pd.DataFrame:
    """Return the table as text, laid out as the paper's: a row a level, a column a method."""
    rows = []
    for (dataset, network), block in table.groupby(["dataset", "network"], sort=False):
        name = {"dataset": dataset, "network": str(network).upper()}
        dense = _cells(block[block["sparsity"] == 0], line)
        pruned = list(block[block["sparsity"] != 0].groupby("sparsity"))
        for level, here in pruned or [(0.0, block)]:
            rows.append(name | _row(level, here, dense, line))
            dense = {}  # an unpruned network has no level: it stands in its first row alone
    return pd.DataFrame(rows).rename(columns=lambda name: plots.label(name))


def _row(level: Any, here: pd.DataFrame, dense: dict[str, str], line: str) -> dict[str, str]:  # noqa: ANN401
    cells = _cells(here, line) | dense
    return (
        {"sparsity": f"{level:.0%}"}
        | {method: cells.get(method, "") for method in (*DENSE, *PRUNED)}
        | {"seeds": _range(here["seeds"], "d")}
        | {"achieved sparsity": _range(here["achieved_sparsity"].dropna(), ".4f")}
    )


def _cells(block: pd.DataFrame, line: str) -> dict[str, str]:
    return {str(row.method): _cell(row, line) for row in block.itertuples()}


def _cell(row: Any, line: str) -> str:  # noqa: ANN401  (a named tuple)
    paper = "" if pd.isna(row.paper) else f"paper {row.paper:.4f}"
    if not row.seeds:
        return f"–{line}{paper}"
    spread = "" if pd.isna(row.std) else f" ± {row.std:.4f}"
    beside = f"{line}{paper} ({row.difference:+.4f})" if paper else ""
    return f"{row.mean:.4f}{spread}{MARK if row.outside else ''}{beside}"


def _range(values: pd.Series, form: str) -> str:
    texts = [format(value, form) for value in (values.min(), values.max())] if len(values) else []
    return " to ".join(dict.fromkeys(texts))


def notes(results: pd.DataFrame, where: Mapping[str, str] | None = None) -> list[str]:
    """Return what stands under Table 1: how to read it, and the settings of the runs."""
    frame = one_variant(results, where)
    names = [n for n in SETTINGS if n in frame and n not in DECIDED and frame[n].nunique() == 1]
    settings = ", ".join(f"{name} {frame[name].iloc[0]}" for name in names)
    return [
        "Test accuracy: mean over seeds ± sample standard deviation; below it the paper's mean "
        "and, in brackets, ours minus the paper's.",
        f"{MARK} The paper's mean (as rounded) lies outside our 95% t-interval (3 seeds or more). "
        "The paper gives no spread of its own: this marks where the numbers differ, not why.",
        "The paper does not state layer widths, prior scale, threshold or what is regularised; the "
        f"settings of these runs: {settings}.",
    ]


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
    """Return Table 1 as CSV: a row for each cell, all columns, no notes."""
    return table.to_csv(index=False)


FORMATS: dict[str, Callable[[pd.DataFrame, Sequence[str]], str]] = {
    "markdown": markdown,
    "html": as_html,
    "csv": csv,
}
