"""Figures of one configuration's training: losses, decisions, sparsity by layer."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_bayesprune.plots.style import (
    COLOURS,
    MARKERS,
    OCCAM,
    PARTS,
    UNGATED,
    Look,
    check_columns,
    curve,
    held_out,
    legend_above,
    legend_beside,
    line,
    one_axes,
    panels,
    whole_epochs,
)


def learning_curves(history: pd.DataFrame) -> Figure:
    """Draw loss (left), log Bayes factor and sparsity (right) by epoch (paper, figure 4).

    The log Bayes factor is that of the epoch's own step, in nats over the data set, of the
    candidate that was looked at last; a refused step is marked with a cross.

    Args:
        history: a row an epoch, as in `Fit.history`. Where nothing was held out for validation, the
            test loss is drawn, under its own name.

    Returns:
        The figure; it is not shown. ``figure.savefig(path)`` writes it.

    Raises:
        ValueError: if a column is missing.
    """
    check_columns(history, ["epoch", "train_loss", "log_bf", "decision", "sparsity"])
    figure, (left, right) = panels(2)
    _losses(left, history)
    _steps(right, history)
    return figure


def _losses(axes: Axes, history: pd.DataFrame) -> None:
    parts = [("train", "o", COLOURS[0]), (held_out(history), "s", COLOURS[1])]
    for part, marker, colour in parts:
        if part:
            line(axes, history["epoch"], history[f"{part}_loss"], part, marker, colour)
    axes.set(xlabel="epoch", ylabel="loss (nats an example)", title="Loss")
    whole_epochs(axes)
    axes.legend()


def _steps(axes: Axes, history: pd.DataFrame) -> None:
    epoch, refused = history["epoch"], history[history["decision"] == "refused"]
    line(axes, epoch, history["log_bf"], "log Bayes factor", "o", COLOURS[2])
    if len(refused):
        look: dict[str, Any] = {"color": "black", "marker": "X", "s": 90, "zorder": 4}
        axes.scatter(refused["epoch"], refused["log_bf"], label="refused", **look)
    axes.set(xlabel="epoch", ylabel="log Bayes factor (nats)")
    axes.set_title("Pruning steps", loc="left")
    whole_epochs(axes)
    share = axes.twinx()
    line(share, epoch, history["sparsity"], "sparsity", "^", COLOURS[3])
    share.set(ylabel="sparsity (share of prunable weights)", ylim=(-0.02, 1.02))
    share.grid(False)  # one grid is enough; two that do not meet mislead
    handles = [axes.get_legend_handles_labels(), share.get_legend_handles_labels()]
    legend_above(share, *(one + other for one, other in zip(*handles, strict=True)))


def layer_sparsity(histories: pd.DataFrame, ax: Axes | None = None) -> Figure:
    """Draw the sparsity of each layer and of all together by epoch.

    Args:
        histories: a row an epoch, of the runs of one configuration; columns ``sparsity/<layer>``.
        ax: where to draw.
    """
    seen = histories.dropna(axis="columns", how="all")
    layers = [name for name in map(str, seen) if name.startswith("sparsity/")]
    figure, ax = one_axes(ax)
    for number, name in enumerate(layers):
        label = name.removeprefix("sparsity/").removesuffix(".weight")
        look = Look(label, COLOURS[number % len(COLOURS)], MARKERS[1:][number % 11])
        size = 5 + 2 * (len(layers) - number)  # layers that are pruned alike lie on one another
        curve(ax, histories, name, look, markersize=size)
    curve(ax, histories, "sparsity", Look("all", "black", "o"), linestyle="--")
    ax.set(xlabel="epoch", ylabel="share of weights that are zero", ylim=(-0.05, 1.05))
    legend_beside(ax, "layer")
    return figure


def bayes_factor_parts(histories: pd.DataFrame, ax: Axes | None = None) -> Figure:
    """Draw the log Bayes factor of each epoch's own step and its parts, nats a data set.

    Of kind ``joint`` it has two and is a ratio of joint densities at two points: posterior odds,
    not marginal likelihoods. Of kind ``laplace`` it has an Occam factor as well. Above the
    threshold (grey, where there is one) a step passes. The scale is linear within ± 1 nat.

    Args:
        histories: a row an epoch, of the runs of one configuration.
        ax: where to draw.
    """
    check_columns(histories, ["epoch", *PARTS])
    figure, ax = one_axes(ax)
    occam = OCCAM if histories.get("log_occam_ratio", pd.Series(dtype=float)).any() else {}
    for name, look in (occam | PARTS).items():
        curve(ax, histories, name, look)
    thresholds = histories.get("log_threshold", pd.Series(dtype=float))
    gated = not set(histories.get("method", ())) & set(UNGATED)
    if gated and len(thresholds) and thresholds.abs().max() < float("inf"):
        ax.axhline(thresholds.iloc[0], color="grey", linestyle="--", label="threshold")
    ax.set_yscale("symlog", linthresh=1)
    ax.axhline(0, color="black", linewidth=0.8, zorder=1)
    ax.set(xlabel="epoch", ylabel="log Bayes factor (nats)")
    legend_beside(ax, "of the epoch's step")
    return figure
