"""Figures of predictions and draws: calibration, shift, chains; and of surviving weights."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from pyro_bayesprune.plots.style import COLOURS, one_axes, panels

MARKERS = "os^DvP"
SHIFTS = {"rotation": "rotation (degrees)", "noise": "noise (sd, normalised inputs)"}


def sparsity_by_layer(layers: pd.DataFrame, ax: Axes | None = None) -> Figure:
    """Draw the share of kept weights of each layer as bars, on a logarithmic scale.

    Args:
        layers: a row a layer, with columns ``layer`` and ``kept`` (share in [0, 1]), and
            ``dead units`` where they are known.
        ax: where to draw.
    """
    own = ax is None
    figure, ax = one_axes(ax)
    if own:
        figure.set_size_inches(7, 1.2 + 0.45 * len(layers))
    alive = layers[layers["kept"] > 0]
    bars = ax.barh(layers["layer"], layers["kept"], color=COLOURS[0], height=0.6)
    ax.bar_label(bars, [_kept(row) for row in layers.to_dict("records")], padding=4)
    ax.invert_yaxis()
    if len(alive):
        ax.set_xlim(alive["kept"].min() / 3, 10)  # room for what is written behind the bars
        ax.set_xscale("log")
        ax.set_xticks([t for t in (1e-4, 1e-3, 1e-2, 0.1, 1) if t >= alive["kept"].min() / 3])
        ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    ax.grid(False, axis="y")  # it would cross what is written
    ax.set(xlabel="share of weights that are kept (logarithmic)", ylabel="")
    return figure


def _kept(row: dict[Any, Any]) -> str:
    dead = row.get("dead units")
    return f"{row['kept']:.2%}" + (f", {dead:.0f} dead units" if pd.notna(dead) else "")


def reliability(table: pd.DataFrame, ax: Axes | None = None) -> Figure:
    """Draw accuracy against confidence (`doubt.reliability_table`); the diagonal is calibrated.

    Large markers are bins of many examples, small ones of few.

    Args:
        table: columns ``network``, ``confidence``, ``accuracy``, ``examples``.
        ax: where to draw.
    """
    figure, ax = one_axes(ax)
    _lines(ax, table, "confidence", "accuracy", sizes="examples")
    ax.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--", label="calibrated")
    ax.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02))
    _legend_lines(ax)
    return figure


def rejection(table: pd.DataFrame, ax: Axes | None = None) -> Figure:
    """Draw accuracy against the share of examples that are refused (`doubt.rejection_table`)."""
    figure, ax = one_axes(ax)
    _lines(ax, table, "rejected", "accuracy")
    ax.set(xlabel="share refused, most doubtful first", ylabel="accuracy on the rest")
    _legend_lines(ax)
    return figure


def shifts(table: pd.DataFrame) -> Figure:
    """Draw accuracy (above) and entropy (below) under each shift (`doubt.shift_table`)."""
    kinds = list(table["shift"].unique())
    with sns.axes_style("whitegrid"):
        shape: dict[str, Any] = {"sharex": "col", "sharey": "row", "squeeze": False}
        figure, grid = plt.subplots(2, len(kinds), figsize=(8, 5.5), layout="constrained", **shape)
    plt.close(figure)
    for column, kind in zip(grid.T, kinds, strict=True):
        for ax, name in zip(column, ("accuracy", "entropy"), strict=True):
            _lines(ax, table[table["shift"] == kind], "amount", name)
        column[1].set_xlabel(SHIFTS.get(kind, kind))
    for ax, label in zip(grid[:, 0], ("accuracy", "mean entropy (nats)"), strict=True):
        ax.set_ylabel(label)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def traces(frame: pd.DataFrame) -> Figure:
    """Draw one quantity's chains: values in order (left) and their ranks (right).

    Chains that explore the same posterior overlap on the left and have flat ranks on the right
    (Vehtari et al., 2021).

    Args:
        frame: columns ``chain``, ``draw``, ``value``.
    """
    figure, (left, right) = panels(2)
    ranks = frame.assign(rank=frame["value"].rank())
    bins = np.linspace(0, len(frame), 11)
    for number, (chain, part) in enumerate(ranks.groupby("chain")):
        colour = COLOURS[number % len(COLOURS)]
        left.plot(part["draw"], part["value"], color=colour, linewidth=0.8, label=f"chain {chain}")
        counts, _ = np.histogram(part["rank"], bins)
        right.stairs(counts, bins, color=colour, label=f"chain {chain}")
    per_bin = len(frame) / 10 / frame["chain"].nunique()
    right.axhline(per_bin, color="black", linestyle="--", linewidth=0.8)
    left.set(xlabel="draw", ylabel="log joint (nats)", title="Trace")
    right.set(xlabel="rank among all draws", ylabel="draws", title="Ranks", ylim=(0, None))
    right.legend(fontsize="small")
    return figure


def class_frequencies(table: pd.DataFrame, ax: Axes | None = None) -> Figure:
    """Draw how often each class occurs: in the data, under posterior and prior predictive."""
    figure, ax = one_axes(ax)
    long = table.melt("class", var_name="source", value_name="share")
    palette = dict(zip(("observed", "posterior", "prior"), COLOURS, strict=False))
    sns.barplot(long, x="class", y="share", hue="source", palette=palette, ax=ax)
    ax.set(xlabel="class", ylabel="share")
    ax.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))
    return figure


def calibration_by_sparsity(table: pd.DataFrame, ax: Axes | None = None) -> Figure:
    """Draw the calibration error (ECE) of every run against its sparsity."""
    figure, ax = one_axes(ax)
    _lines(ax, table.sort_values("sparsity", kind="stable"), "sparsity", "ece")
    ax.set(xlabel="sparsity", ylabel="expected calibration error", ylim=(0, None))
    _legend_lines(ax)
    return figure


def _legend_lines(ax: Axes) -> None:
    """Put the legend above, a line each: names of networks are long."""
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "frameon": False}
    ax.legend(**place, borderaxespad=0.2, fontsize="small")


def _lines(ax: Axes, table: pd.DataFrame, x: str, y: str, sizes: str | None = None) -> None:
    """Draw a line a network; the column ``sizes``, where there is one, becomes areas of markers."""
    for number, (name, part) in enumerate(table.groupby("network", sort=False)):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        size = 3 if sizes in part else 6
        ax.plot(part[x], part[y], color=colour, marker=marker, markersize=size, label=str(name))
        if sizes in part:
            areas = 9 + 150 * part[sizes] / table[sizes].max()
            ax.scatter(part[x], part[y], s=areas, color=colour, marker=marker)
