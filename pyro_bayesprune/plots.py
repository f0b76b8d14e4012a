"""Figures of runs: functions of their histories that return a figure and show nothing."""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = sns.color_palette("colorblind")


def learning_curves(history: pd.DataFrame) -> Figure:
    """Draw loss (left), log Bayes factor and sparsity (right) by epoch (paper, figure 4).

    The log Bayes factor is that of the epoch's own step, in nats over the data set, of the
    candidate that was looked at last; a refused step is marked with a cross.

    Args:
        history: a row an epoch, as in `Fit.history`; validation losses that are NaN are left out.

    Returns:
        The figure; it is not shown. ``figure.savefig(path)`` writes it.

    Raises:
        ValueError: if a column is missing.
    """
    _check_columns(history)
    figure, (left, right) = _panels(2)
    _losses(left, history)
    _steps(right, history)
    return figure


def _check_columns(history: pd.DataFrame) -> None:
    needed = ["epoch", "train_loss", "validation_loss", "log_bf", "decision", "sparsity"]
    missing = [name for name in needed if name not in history]
    if missing:
        raise ValueError(f"the history lacks the columns {missing}; it has {list(history)}")


def _panels(count: int) -> tuple[Figure, Any]:
    with sns.axes_style("whitegrid"):
        figure, axes = plt.subplots(1, count, figsize=(5.5 * count, 4), layout="constrained")
    plt.close(figure)  # taken out of pyplot's list: a notebook shows what is returned, once
    return figure, axes


def _losses(axes: Axes, history: pd.DataFrame) -> None:
    for column, marker, colour in (("train", "o", COLOURS[0]), ("validation", "s", COLOURS[1])):
        seen = history.dropna(subset=f"{column}_loss")
        if len(seen):
            _line(axes, seen["epoch"], seen[f"{column}_loss"], column, marker, colour)
    axes.set(xlabel="epoch", ylabel="loss (nats an example)", title="Loss")
    axes.legend()


def _steps(axes: Axes, history: pd.DataFrame) -> None:
    epoch, refused = history["epoch"], history[history["decision"] == "refused"]
    _line(axes, epoch, history["log_bf"], "log Bayes factor", "o", COLOURS[2])
    if len(refused):
        look: dict[str, Any] = {"color": "black", "marker": "X", "s": 90, "zorder": 4}
        axes.scatter(refused["epoch"], refused["log_bf"], label="refused", **look)
    axes.set(xlabel="epoch", ylabel="log Bayes factor (nats)", title="Pruning steps")
    share = axes.twinx()
    _line(share, epoch, history["sparsity"], "sparsity", "^", COLOURS[3])
    share.set(ylabel="sparsity (share of prunable weights)", ylim=(-0.02, 1.02))
    share.grid(False)  # one grid is enough; two that do not meet mislead
    handles = [axes.get_legend_handles_labels(), share.get_legend_handles_labels()]
    share.legend(*(first + second for first, second in zip(*handles, strict=True)))


def _line(
    axes: Axes, x: pd.Series, y: pd.Series, label: str, marker: str, colour: tuple[float, ...]
) -> None:
    look: dict[str, Any] = {"marker": marker, "color": colour, "estimator": None, "errorbar": None}
    sns.lineplot(x=x, y=y, ax=axes, label=label, legend=False, **look)
