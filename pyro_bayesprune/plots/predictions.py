"""Figures of predictions and posterior draws, and of the surviving weights of each layer."""

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from pyro_bayesprune.plots.scales import binomial_interval, include_interval, plain_ticks
from pyro_bayesprune.plots.style import (
    COLOURS,
    MARKERS,
    legend_above,
    legend_below,
    one_axes,
    panels,
    strip_above,
)

UNIT = (-0.02, 1.02)  # limits of an axis of shares
STRIP = 0.2  # height of the strip above the reliability diagram, as a share of the diagram
SHIFTS = {"rotation": "rotation (degrees)", "noise": "noise (sd, normalised inputs)"}


def sparsity_by_layer(layers: pd.DataFrame, ax: Axes | None = None) -> Figure:
    """Draw the share of surviving weights of each layer as dots, on a linear scale.

    If `is_uniform` holds for the column ``kept``, the figure shows nothing, and callers that write
    reports omit it.

    Args:
        layers: one row per layer, with columns ``layer`` and ``kept`` (share in [0, 1]), and
            ``dead units`` where they are known.
        ax: axes to draw on. The default is a new figure.
    """
    figure, ax = one_axes(ax, (6, 0.9 + 0.32 * len(layers)))
    names = layers["layer"].astype(str).str.removesuffix(".weight")
    ax.plot(layers["kept"], names, "o", color=COLOURS[0], markersize=8)
    ax.hlines(names, 0, layers["kept"], color=COLOURS[0], linewidth=1)
    place: dict[str, Any] = {"xytext": (8, 0), "textcoords": "offset points", "va": "center"}
    for name, row in zip(names, layers.to_dict("records"), strict=True):
        ax.annotate(_share_label(row), (row["kept"], name), fontsize="small", **place)
    ax.set_ylim(len(layers) - 0.4, -0.6)
    ax.set_xlim(0, 1.4 * layers["kept"].max() or 1)  # leaves space for the labels
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    ax.grid(False, axis="y")
    ax.set(xlabel="share of surviving weights", ylabel="")
    return figure


def _share_label(row: dict[Any, Any]) -> str:
    dead = row.get("dead units") or 0  # NaN where it is not known
    units = f", {dead:.0f} dead unit{'s' * (dead > 1)}" if dead > 0 else ""
    return f"{row['kept']:.2%}{units}"


def reliability(table: pd.DataFrame, ax: Axes | None = None) -> Figure:
    """Draw accuracy against confidence. The diagonal is perfect calibration.

    With the numbers of examples, bars are 95% binomial intervals of the accuracy (Wilson), and a
    strip above shows the numbers on a logarithmic scale.

    Args:
        table: result of `calibration.reliability_table`, with a column ``network``.
        ax: axes to draw on. The default is a new figure.
    """
    figure, ax = one_axes(ax, (5, 6.2 + 0.2 * table["network"].nunique()))
    _draw_networks(ax, table, "confidence", "accuracy")
    ax.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--", label="calibrated")
    ax.set(xlabel="confidence", ylabel="accuracy", xlim=UNIT, ylim=UNIT, aspect="equal")
    if "examples" in table:
        strip = strip_above(ax, STRIP)
        _draw_networks(strip, table, "confidence", "examples")
        strip.set(ylabel="examples", yscale="log")
        plain_ticks(strip.yaxis, most=4)
    legend_above(ax, bbox_to_anchor=(0, 1.05 + STRIP if "examples" in table else 1))
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
    legend_above(ax)
    return figure


def coverage(table: pd.DataFrame, ax: Axes | None = None) -> Figure:
    """Draw the coverage of central intervals against their probability.

    Args:
        table: result of `targets.coverage_table`, with a column ``network``.
        ax: axes to draw on. The default is a new figure.
    """
    figure, ax = one_axes(ax, (5, 5.5))
    _draw_networks(ax, table, "probability", "coverage")
    ax.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--", label="calibrated")
    labels = {"xlabel": "probability of the interval", "ylabel": "share of targets inside"}
    ax.set(xlim=UNIT, ylim=UNIT, aspect="equal", **labels)
    legend_above(ax)
    return figure


def rejection(table: pd.DataFrame, ax: Axes | None = None) -> Figure:
    """Draw accuracy against the share of examples that are rejected.

    With the numbers of examples, bars are 95% binomial intervals of the accuracy (Wilson).

    Args:
        table: result of `calibration.rejection_table`, with a column ``network``.
        ax: axes to draw on. The default is a new figure.
    """
    figure, ax = one_axes(ax)
    _draw_networks(ax, table, "rejected", "accuracy")
    ax.set(xlabel="share rejected, most uncertain first", ylabel="accuracy on the rest")
    legend_above(ax)
    return figure


def shifts(table: pd.DataFrame, *, num_test: int | None = None) -> Figure:
    """Draw accuracy (top) and entropy (bottom) under each kind of input shift.

    Args:
        table: result of `shift.shift_table`.
        num_test: number of examples behind each accuracy. With it, bars are 95% binomial intervals,
            and the axis of accuracies spans at least the interval of all examples.
    """
    kinds = list(table["shift"].unique())
    options = {"sharex": "col", "sharey": "row", "squeeze": False}
    figure, grid = panels(2, len(kinds), figsize=(6, 4.6), **options)
    table = table if num_test is None else table.assign(examples=num_test)
    for column, kind in zip(grid.T, kinds, strict=True):
        for ax, name in zip(column, ("accuracy", "entropy"), strict=True):
            _draw_networks(ax, table[table["shift"] == kind], "amount", name)
        column[1].set_xlabel(SHIFTS.get(kind, kind))
    include_interval(grid[0, 0], table["accuracy"], num_test)
    grid[0, 0].set_ylabel("accuracy")
    grid[1, 0].set_ylabel("mean entropy (nats)")
    legend_below(figure, grid[0, 0].get_legend_handles_labels()[0])
    return figure


def traces(frame: pd.DataFrame) -> Figure:
    """Draw the chains of one quantity: values in order (left) and their ranks (right).

    Chains of the same posterior overlap on the left and have flat ranks on the right (Vehtari et
    al., 2021).

    Args:
        frame: columns ``chain``, ``draw``, ``value``.
    """
    figure, (left, right) = panels(1, 2, figsize=(7, 3.4))
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
    legend_below(figure, left.get_legend_handles_labels()[0])
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
    sns.barplot(long, x=kind, y="share", hue="source", palette=palette, saturation=1, ax=ax)
    if kind != "class":
        ax.tick_params("x", rotation=60)
    ax.set(xlabel=kind, ylabel="share")
    legend_above(ax)
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
    legend_above(ax)
    return figure


def _draw_networks(ax: Axes, table: pd.DataFrame, x: str, y: str) -> None:
    """Draw one line per network, with binomial intervals of accuracies of ``examples``."""
    for number, (name, part) in enumerate(table.groupby("network", sort=False)):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        ax.plot(part[x], part[y], color=colour, marker=marker, markersize=6, label=str(name))
        if y == "accuracy" and "examples" in part:
            low, high = binomial_interval(part[y], part["examples"])
            ax.vlines(part[x], low, high, color=colour, linewidth=1)
