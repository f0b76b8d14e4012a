"""Figures of predictions and posterior draws, and of the surviving weights of each layer."""

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from pyro_bayesprune.plots.style import COLOURS, MARKERS, one_axes, panels

SHIFTS = {"rotation": "rotation (degrees)", "noise": "noise (sd, normalised inputs)"}


def sparsity_by_layer(layers: pd.DataFrame, ax: Axes | None = None) -> Figure:
    """Draw the share of surviving weights of each layer as bars, on a logarithmic scale.

    Args:
        layers: one row per layer, with columns ``layer`` and ``kept`` (share in [0, 1]), and
            ``dead units`` where they are known.
        ax: axes to draw on. The default is a new figure.
    """
    is_new = ax is None
    figure, ax = one_axes(ax)
    if is_new:
        figure.set_size_inches(7, 1.2 + 0.45 * len(layers))
    bars = ax.barh(layers["layer"], layers["kept"], color=COLOURS[0], height=0.6)
    ax.bar_label(bars, [_bar_label(row) for row in layers.to_dict("records")], padding=4)
    ax.invert_yaxis()
    positive = layers.loc[layers["kept"] > 0, "kept"]
    if len(positive):
        lowest = positive.min() / 3
        ax.set_xlim(lowest, 10)  # leaves space for the labels of the bars
        ax.set_xscale("log")
        ax.set_xticks([tick for tick in (1e-4, 1e-3, 1e-2, 0.1, 1) if tick >= lowest])
        ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    ax.grid(False, axis="y")  # grid lines would cross the labels
    ax.set(xlabel="share of surviving weights (logarithmic)", ylabel="")
    return figure


def _bar_label(row: dict[Any, Any]) -> str:
    dead = row.get("dead units")
    return f"{row['kept']:.2%}" + (f", {dead:.0f} dead units" if pd.notna(dead) else "")


def reliability(table: pd.DataFrame, ax: Axes | None = None) -> Figure:
    """Draw accuracy against confidence. The diagonal is perfect calibration.

    The larger a marker, the more examples its bin has.

    Args:
        table: result of `calibration.reliability_table`, with a column ``network``.
        ax: axes to draw on. The default is a new figure.
    """
    figure, ax = one_axes(ax)
    _draw_networks(ax, table, "confidence", "accuracy", sizes="examples")
    ax.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--", label="calibrated")
    ax.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02))
    _legend_above(ax)
    return figure


def pit(table: pd.DataFrame, ax: Axes | None = None) -> Figure:
    """Draw the shares of the probability integral transform. Calibrated shares are equal.

    Args:
        table: result of `targets.pit_table`, with a column ``network``.
        ax: axes to draw on. The default is a new figure.
    """
    figure, ax = one_axes(ax)
    for number, (name, part) in enumerate(table.groupby("network", sort=False)):
        edges = [*part["from"], part["to"].iloc[-1]]
        ax.stairs(part["share"], edges, color=COLOURS[number % len(COLOURS)], label=str(name))
    ax.axhline(
        1 / table["from"].nunique(),
        color="black",
        linewidth=0.8,
        linestyle="--",
        label="calibrated",
    )
    ax.set(xlabel="PIT", ylabel="share of the targets", xlim=(0, 1), ylim=(0, None))
    _legend_above(ax)
    return figure


def coverage(table: pd.DataFrame, ax: Axes | None = None) -> Figure:
    """Draw the coverage of central intervals against their probability.

    Args:
        table: result of `targets.coverage_table`, with a column ``network``.
        ax: axes to draw on. The default is a new figure.
    """
    figure, ax = one_axes(ax)
    _draw_networks(ax, table, "probability", "coverage")
    ax.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--", label="calibrated")
    labels = {"xlabel": "probability of the interval", "ylabel": "share of targets inside"}
    ax.set(xlim=(0, 1.02), ylim=(0, 1.02), **labels)
    _legend_above(ax)
    return figure


def rejection(table: pd.DataFrame, ax: Axes | None = None) -> Figure:
    """Draw accuracy against the share of examples that are rejected.

    Args:
        table: result of `calibration.rejection_table`, with a column ``network``.
        ax: axes to draw on. The default is a new figure.
    """
    figure, ax = one_axes(ax)
    _draw_networks(ax, table, "rejected", "accuracy")
    ax.set(xlabel="share rejected, most uncertain first", ylabel="accuracy on the rest")
    _legend_above(ax)
    return figure


def shifts(table: pd.DataFrame) -> Figure:
    """Draw accuracy (top) and entropy (bottom) under each kind of input shift.

    Args:
        table: result of `shift.shift_table`.
    """
    kinds = list(table["shift"].unique())
    options = {"sharex": "col", "sharey": "row", "squeeze": False}
    figure, grid = panels(2, len(kinds), figsize=(8, 5.5), **options)
    for column, kind in zip(grid.T, kinds, strict=True):
        for ax, name in zip(column, ("accuracy", "entropy"), strict=True):
            _draw_networks(ax, table[table["shift"] == kind], "amount", name)
        column[1].set_xlabel(SHIFTS.get(kind, kind))
    grid[0, 0].set_ylabel("accuracy")
    grid[1, 0].set_ylabel("mean entropy (nats)")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def traces(frame: pd.DataFrame) -> Figure:
    """Draw the chains of one quantity: values in order (left) and their ranks (right).

    Chains of the same posterior overlap on the left and have flat ranks on the right (Vehtari et
    al., 2021).

    Args:
        frame: columns ``chain``, ``draw``, ``value``.
    """
    figure, (left, right) = panels(1, 2, figsize=(11, 4))
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
    """Draw the frequency of each class: observed, and under the posterior and prior predictive.

    Args:
        table: result of `statistics.frequencies`, of classes or of intervals of other targets.
        ax: axes to draw on. The default is a new figure.
    """
    figure, ax = one_axes(ax)
    kind = table.columns[0]
    long = table.melt(kind, var_name="source", value_name="share")
    palette = dict(zip(("observed", "posterior", "prior"), COLOURS, strict=False))
    sns.barplot(long, x=kind, y="share", hue="source", palette=palette, ax=ax)
    if kind != "class":
        ax.tick_params("x", rotation=60)
    ax.set(xlabel=kind, ylabel="share")
    ax.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))
    return figure


def calibration_by_sparsity(table: pd.DataFrame, ax: Axes | None = None) -> Figure:
    """Draw the expected calibration error (ECE) of every run against its sparsity.

    Args:
        table: one row per run, with columns ``network``, ``sparsity``, ``ece``.
        ax: axes to draw on. The default is a new figure.
    """
    figure, ax = one_axes(ax)
    _draw_networks(ax, table.sort_values("sparsity", kind="stable"), "sparsity", "ece")
    ax.set(xlabel="sparsity", ylabel="expected calibration error", ylim=(0, None))
    _legend_above(ax)
    return figure


def _legend_above(ax: Axes) -> None:
    """Put the legend above the axes, one line per network, because their names are long."""
    ax.legend(
        loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, frameon=False, fontsize="small"
    )


def _draw_networks(ax: Axes, table: pd.DataFrame, x: str, y: str, sizes: str | None = None) -> None:
    """Draw one line per network. The column ``sizes``, if present, sets the area of markers."""
    for number, (name, part) in enumerate(table.groupby("network", sort=False)):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        size = 3 if sizes in part else 6
        ax.plot(part[x], part[y], color=colour, marker=marker, markersize=size, label=str(name))
        if sizes in part:
            areas = 9 + 150 * part[sizes] / table[sizes].max()
            ax.scatter(part[x], part[y], s=areas, color=colour, marker=marker)
