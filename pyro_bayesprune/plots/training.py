"""Figures of the training of one configuration: losses, decisions, sparsity by layer."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_bayesprune.plots import style
from pyro_bayesprune.plots.style import COLOURS, MARKERS, Look


def learning_curves(history: pd.DataFrame) -> Figure:
    """Draw the loss (left), and the log Bayes factor and the sparsity (right), by epoch.

    This is figure 4 of the paper. The log Bayes factor belongs to the last candidate of the epoch's
    pruning step, in nats over the data set. A cross marks a refused step.

    Args:
        history: one row per epoch, as in `Fit.history`. Without a validation loss, the test loss is
            drawn.

    Returns:
        The figure. It is not displayed; ``figure.savefig(path)`` writes it to a file.

    Raises:
        ValueError: if a column is missing.
    """
    style.check_columns(history, ["epoch", "train_loss", "log_bf", "decision", "sparsity"])
    figure, (left, right) = style.panels(1, 2, figsize=(11, 4))
    style.curve(left, history, "train_loss", Look("train", COLOURS[0], "o"))
    if part := style.held_out(history):
        style.curve(left, history, f"{part}_loss", Look(part, COLOURS[1], "s"))
    left.set(xlabel="epoch", ylabel=style.LOSS, title="Loss")
    left.legend()
    _draw_steps(right, history)
    return figure


def _draw_steps(ax: Axes, history: pd.DataFrame) -> None:
    style.curve(ax, history, "log_bf", Look("log Bayes factor", COLOURS[2], "o"))
    refused = history[history["decision"] == "refused"]
    if len(refused):
        points = refused["epoch"], refused["log_bf"]
        ax.scatter(*points, label="refused", color="black", marker="X", s=90, zorder=4)
    ax.set(xlabel="epoch", ylabel="log Bayes factor (nats)")
    ax.set_title("Pruning steps", loc="left")
    right = ax.twinx()
    style.curve(right, history, "sparsity", Look("sparsity", COLOURS[3], "^"))
    right.set(ylabel="sparsity (share of prunable weights)", ylim=(-0.02, 1.02))
    right.grid(False)  # the grid lines of two scales would not coincide
    entries = zip(ax.get_legend_handles_labels(), right.get_legend_handles_labels(), strict=True)
    place: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1.02, 0.99), "ncols": 4}
    place |= {"frameon": False, "borderpad": 0.2, "columnspacing": 0.8}
    place |= {"handlelength": 1.2, "handletextpad": 0.4}  # three entries fit beside the title
    right.legend(*(first + second for first, second in entries), **place)


def layer_sparsity(histories: pd.DataFrame, ax: Axes | None = None) -> Figure:
    """Draw the sparsity of each layer, and of all layers together, by epoch.

    Args:
        histories: one row per epoch of the runs of one configuration. The columns of the layers are
            called ``sparsity/<layer>``.
        ax: axes to draw on. The default is a new figure.
    """
    columns = map(str, histories.dropna(axis="columns", how="all"))
    layers = [name for name in columns if name.startswith("sparsity/")]
    figure, ax = style.one_axes(ax)
    for number, name in enumerate(layers):
        label = name.removeprefix("sparsity/").removesuffix(".weight")
        look = Look(label, COLOURS[number % len(COLOURS)], MARKERS[1:][number % 11])
        size = 5 + 2 * (len(layers) - number)  # lines of equally pruned layers coincide
        style.curve(ax, histories, name, look, markersize=size)
    style.curve(ax, histories, "sparsity", Look("all", "black", "o"), linestyle="--")
    ax.set(xlabel="epoch", ylabel="share of weights that are zero", ylim=(-0.05, 1.05))
    style.legend_beside(ax, "layer")
    return figure


def bayes_factor_parts(histories: pd.DataFrame, ax: Axes | None = None) -> Figure:
    """Draw the log Bayes factor of each epoch's pruning step and its parts, in nats per data set.

    A log Bayes factor of the kind ``joint`` has a likelihood part and a prior part. It compares the
    joint densities of two points, that is, their posterior odds, and not marginal likelihoods. The
    kind ``laplace`` also has an Occam factor. A step passes above the threshold, a grey line. The
    vertical scale is linear within ± 1 nat.

    Args:
        histories: one row per epoch of the runs of one configuration.
        ax: axes to draw on. The default is a new figure.

    Raises:
        ValueError: if a column is missing.
    """
    style.check_columns(histories, ["epoch", *style.PARTS])
    figure, ax = style.one_axes(ax)
    empty = pd.Series(dtype=float)
    occam = style.OCCAM if histories.get("log_occam_ratio", empty).any() else {}
    for name, look in (occam | style.PARTS).items():
        style.curve(ax, histories, name, look)
    thresholds = histories.get("log_threshold", empty)
    gated = not set(histories.get("method", ())) & set(style.UNGATED)
    if gated and len(thresholds) and thresholds.abs().max() < float("inf"):
        ax.axhline(thresholds.iloc[0], color="grey", linestyle="--", label="threshold")
    ax.set_yscale("symlog", linthresh=1)
    ax.axhline(0, color="black", linewidth=0.8, zorder=1)
    ax.set(xlabel="epoch", ylabel="log Bayes factor (nats)")
    style.legend_beside(ax, "pruning step")
    return figure
