"""Figures that compare methods, sparsities and unpruned twins.

All functions raise a ValueError if the data frame lacks a required column.
"""

from collections.abc import Callable, Sequence

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_bayesprune.plots import style
from pyro_bayesprune.plots.style import METHODS, PARTS, Look, curve


def comparison(histories: pd.DataFrame, methods: Sequence[str] | None = None) -> Figure:
    """Draw the paper's learning curves: loss (left), Bayes factors and sparsity (right) by epoch.

    Bayes factors are per datum, BF^(1/N). Solid lines compare a network with its unpruned twin at
    the same epoch. Dotted lines show the epoch's pruning step. Its factor is one when the target
    sparsity has been reached and masks persist.

    Args:
        histories: one row per run and epoch of one data set, network and sparsity, with those of
            the unpruned runs. The function `statistics.twins` adds the required columns.
        methods: methods to draw. The default is all methods in the data.
    """
    columns = ["method", "epoch", "train_loss", "bf_per_datum", "twin_bf_per_datum"]
    style.check_columns(histories, columns)
    options = {"draw": plt.subplot_mosaic, "figsize": (11, 5), "height_ratios": (3, 2)}
    figure, axes = style.panels("AB;AC", **options)
    left, factor, sparsity = axes.values()
    sparsity.sharex(factor)
    factor.tick_params(labelbottom=False)
    names = [name for name in methods or METHODS if name in set(histories["method"])]
    for name in names:
        runs, look = histories[histories["method"] == name], METHODS[name]
        curve(left, runs, "train_loss", look, linestyle="--")
        if part := style.held_out(runs):
            curve(left, runs, f"{part}_loss", look)
        curve(factor, runs, "twin_bf_per_datum", look)
        if not name.endswith("unpruned"):
            curve(factor, runs, "bf_per_datum", look, linestyle=":")
        curve(sparsity, runs, "sparsity", look)
    factor.axhline(1, color="black", linewidth=0.8, zorder=1)
    left.set(xlabel="epoch", ylabel=style.LOSS, title="Loss")
    factor.set(xlabel="", ylabel="Bayes factor per datum", title="Bayes factor and sparsity")
    sparsity.set(xlabel="epoch", ylabel="sparsity", ylim=(-0.05, 1.05))
    part = style.held_out(histories)
    style.linestyle_legend(left, ({"-": part} if part else {}) | {"--": "train"})
    style.linestyle_legend(factor, {"-": "against the unpruned twin", ":": "of the pruning step"})
    style.log_if_positive(left)
    style.legend_below(figure, [METHODS[name] for name in names], style.seeds_text(histories))
    return figure


def loss_by_level(histories: pd.DataFrame, ax: Axes | None = None) -> Figure:
    """Draw the held-out loss by epoch, one line per target sparsity (figure 5 of the paper).

    Args:
        histories: one row per run and epoch of one data set, network and method, with those of the
            unpruned twin (sparsity level 0).
        ax: axes to draw on. The default is a new figure.
    """
    style.check_columns(histories, ["level", "epoch"])
    figure, ax = style.one_axes(ax)
    part, levels = style.held_out(histories), sorted(histories["level"].unique())
    colours = sns.color_palette("viridis", len(levels))  # its brightness has the order of levels
    for number, (level, colour) in enumerate(zip(levels, colours, strict=True)):
        marker = style.MARKERS[number % len(style.MARKERS)]
        look = Look(f"{level:.0%}", colour, marker) if level else Look("unpruned", "black", marker)
        runs = histories[histories["level"] == level]
        curve(ax, runs, f"{part}_loss", look, linestyle="-" if level else "--")
    ax.set(xlabel="epoch", ylabel=f"{part} {style.LOSS}")
    style.log_if_positive(ax)
    style.legend_beside(ax, f"target sparsity\n{style.seeds_text(histories)}")
    return figure


def accuracy_against_compression(
    results: pd.DataFrame, ax: Axes | None = None, score: str = "accuracy"
) -> Figure:
    """Draw test accuracy (or RMSE) against compression, one line per method.

    Points are means over seeds. Bands are ± one sample standard deviation of the score. Unpruned
    networks are horizontal lines.

    Args:
        results: one row per run of one data set and network.
        ax: axes to draw on. The default is a new figure.
        score: ``"accuracy"``, or ``"rmse"`` for targets that are no classes.
    """
    test = f"test_{score}"
    style.check_columns(results, ["method", "sparsity", "compression_ratio", test])
    figure, ax = style.one_axes(ax)
    for name, look in {**METHODS, "custom": style.CUSTOM}.items():
        runs = results[results["method"] == name]
        if name.endswith("unpruned"):
            _horizontal(ax, runs[test], look)
        elif len(runs):
            means = runs.groupby("sparsity")["compression_ratio"].transform("mean")
            curve(ax, runs.assign(compression=means), test, look, x="compression")
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter("{x:g}x")
    names = {"accuracy": "test accuracy", "rmse": "test RMSE"}
    ax.set(xlabel="compression (parameters before / after)", ylabel=names[score])
    style.legend_beside(ax, style.seeds_text(results))
    return figure


def _horizontal(ax: Axes, values: pd.Series, look: Look) -> None:
    if len(values):
        mean, spread = values.mean(), values.std()
        line = "--" if look.label == "unpruned" else ":"
        ax.axhline(mean, color=look.colour, linestyle=line, label=f"{look.label} (dense)")
        if len(values) > 1:
            ax.axhspan(mean - spread, mean + spread, color=look.colour, alpha=0.1, linewidth=0)


def twins(histories: pd.DataFrame) -> Figure:
    """Draw the log Bayes factor against the unpruned twin by epoch, and its two parts.

    Args:
        histories: one row per run and epoch of one data set, network and sparsity. The function
            `statistics.twins` adds the required columns (nats over the data set).
    """
    style.check_columns(histories, ["epoch", "method", *(f"twin_{name}" for name in PARTS)])
    figure, axes = style.panels(1, 3, figsize=(16.5, 4))
    names = [n for n in METHODS if n in set(histories["method"]) and not n.endswith("unpruned")]
    for ax, part in zip(axes, ("log_bf", "log_likelihood_ratio", "log_prior_ratio"), strict=True):
        for name in names:
            curve(ax, histories[histories["method"] == name], f"twin_{part}", METHODS[name])
        ax.axhline(0, color="black", linewidth=0.8, zorder=1)
        ax.set(xlabel="epoch", ylabel="nats", title=PARTS[part].label)
    style.legend_below(figure, [METHODS[name] for name in names], style.seeds_text(histories))
    return figure


def by_method(
    histories: pd.DataFrame, methods: Sequence[str], draw: Callable[[pd.DataFrame, Axes], Figure]
) -> Figure:
    """Draw the same figure for several methods, two in a row, with a common vertical scale.

    Args:
        histories: one row per run and epoch of one data set, network and sparsity.
        methods: methods to draw, one panel each.
        draw: `layer_sparsity` or `bayes_factor_parts`.
    """
    rows = (len(methods) + 1) // 2
    figure, grid = style.panels(rows, 2, figsize=(11, 3.6 * rows), sharey=True)
    for ax, name in zip(grid.flat, methods, strict=False):
        draw(histories[histories["method"] == name], ax)
        ax.set(title=style.label(name))
        ax.get_legend().remove()
    entries = (ax.get_legend_handles_labels() for ax in grid.flat)
    handles, labels = max(entries, key=lambda entry: len(entry[1]))
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure
