"""Figures about trust: calibration, doubt, chains. Functions of frames; nothing is shown.

Beside `plots`, whose figures are of training and pruning; colours and sizes are shared.
"""

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_bayesprune.plots import COLOURS, _one, _panels

MARKERS = "os^DvP"


def sparsity_by_layer(layers: pd.DataFrame, ax: Axes | None = None) -> Figure:
    """Draw the share of kept weights of each layer as bars, on a logarithmic scale.

    Args:
        layers: a row a layer, with columns ``layer`` and ``kept`` (share in [0, 1]).
        ax: where to draw.
    """
    figure, ax = _one(ax)
    alive = layers[layers["kept"] > 0]
    ax.barh(layers["layer"], layers["kept"], color=COLOURS[0])
    ax.invert_yaxis()
    if len(alive):
        ax.set_xlim(alive["kept"].min() / 3, 1.5)
        ax.set_xscale("log")
    ax.set(xlabel="share of weights that are kept (logarithmic)", ylabel="")
    return figure


def reliability(table: pd.DataFrame, ax: Axes | None = None) -> Figure:
    """Draw accuracy against confidence (`doubt.reliability_table`); the diagonal is calibrated.

    Args:
        table: columns ``network``, ``confidence``, ``accuracy``, ``examples``.
        ax: where to draw.
    """
    figure, ax = _one(ax)
    _lines(ax, table, "confidence", "accuracy")
    ax.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--", label="calibrated")
    ax.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02))
    ax.legend()
    return figure


def rejection(table: pd.DataFrame, ax: Axes | None = None) -> Figure:
    """Draw accuracy against the share of examples that are refused (`doubt.rejection_table`)."""
    figure, ax = _one(ax)
    _lines(ax, table, "rejected", "accuracy")
    ax.set(xlabel="share refused, most doubtful first", ylabel="accuracy on the rest")
    ax.legend()
    return figure


def shifts(table: pd.DataFrame) -> Figure:
    """Draw accuracy and entropy under rotation and noise (`doubt.shift_table`)."""
    kinds = list(table["shift"].unique())
    figure, axes = _panels(2)
    for kind, linestyle in zip(kinds, ("-", ":"), strict=False):
        part = table[table["shift"] == kind].copy()
        # Two units on one axis: amounts as steps, the units stand in the table.
        part["step"] = part["amount"].rank(method="dense") - 1
        part["network"] = part["network"] + f", {kind}"
        for ax, column in zip(axes, ("accuracy", "entropy"), strict=True):
            _lines(ax, part, "step", column, linestyle=linestyle)
    for ax, label in zip(axes, ("accuracy", "mean predictive entropy (nats)"), strict=True):
        ax.set(xlabel="step of shift (0: none)", ylabel=label)
        ax.xaxis.get_major_locator().set_params(integer=True)
    axes[0].legend(fontsize="small")
    return figure


def traces(frame: pd.DataFrame) -> Figure:
    """Draw one quantity's chains: values in order (left) and their ranks (right).

    Chains that explore the same posterior overlap on the left and have flat ranks on the right
    (Vehtari et al., 2021).

    Args:
        frame: columns ``chain``, ``draw``, ``value``.
    """
    figure, (left, right) = _panels(2)
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
    figure, ax = _one(ax)
    long = table.melt("class", var_name="source", value_name="share")
    palette = dict(zip(("observed", "posterior", "prior"), COLOURS, strict=False))
    sns.barplot(long, x="class", y="share", hue="source", palette=palette, ax=ax)
    ax.set(xlabel="class", ylabel="share")
    ax.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))
    return figure


def calibration_by_sparsity(table: pd.DataFrame, ax: Axes | None = None) -> Figure:
    """Draw the calibration error (ECE) of every run against its sparsity."""
    figure, ax = _one(ax)
    _lines(ax, table.sort_values("sparsity"), "sparsity", "ece")
    ax.set(xlabel="sparsity", ylabel="expected calibration error", ylim=(0, None))
    ax.legend()
    return figure


def _lines(ax: Axes, table: pd.DataFrame, x: str, y: str, linestyle: str = "-") -> None:
    offset = len(ax.get_lines())
    for number, (name, part) in enumerate(table.groupby("network", sort=False), start=offset):
        look: dict[str, Any] = {"marker": MARKERS[number % len(MARKERS)], "linestyle": linestyle}
        ax.plot(part[x], part[y], color=COLOURS[number % len(COLOURS)], label=str(name), **look)
