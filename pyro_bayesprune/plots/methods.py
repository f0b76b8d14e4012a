"""Figures that compare methods, sparsities and unpruned twins."""

from collections.abc import Callable, Sequence

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_bayesprune.plots.style import (
    CUSTOM,
    MARKERS,
    METHODS,
    PARTS,
    Look,
    check_columns,
    curve,
    held_out,
    label,
    legend_below,
    legend_beside,
    log_if_positive,
    one_axes,
    panels,
    seeds_text,
    style_legend,
)


def comparison(histories: pd.DataFrame, methods: Sequence[str] | None = None) -> Figure:
    """Draw the paper's learning curves: loss (left), Bayes factor and sparsity (right) by epoch.

    Bayes factors are per datum, BF^(1/N): against the unpruned twin at the same epoch (solid), and
    of the epoch's own step (dotted; one once the target is reached and masks persist).

    Args:
        histories: a row a run and epoch, of one data set, network and sparsity (unpruned runs
            besides), with the columns that `results.twins` adds.
        methods: what to draw, by default all that is there.
    """
    check_columns(histories, ["method", "epoch", "train_loss", "bf_per_datum", "twin_bf_per_datum"])
    figure, (left, factor, share) = _comparison_axes()
    shown = [name for name in methods or METHODS if name in set(histories["method"])]
    for name in shown:
        runs, look = histories[histories["method"] == name], METHODS[name]
        curve(left, runs, "train_loss", look, linestyle="--")
        if part := held_out(runs):
            curve(left, runs, f"{part}_loss", look)
        curve(factor, runs, "twin_bf_per_datum", look)
        if name not in ("unpruned", "bayes_unpruned"):
            curve(factor, runs, "bf_per_datum", look, linestyle=":")
        curve(share, runs, "sparsity", look)
    factor.axhline(1, color="black", linewidth=0.8, zorder=1)
    left.set(xlabel="epoch", ylabel="loss (nats an example)", title="Loss")
    factor.set(xlabel="", ylabel="Bayes factor per datum", title="Bayes factor and sparsity")
    share.set(xlabel="epoch", ylabel="sparsity", ylim=(-0.05, 1.05))
    part = held_out(histories)
    style_legend(left, [("-", part)] * bool(part) + [("--", "train")])
    style_legend(factor, [("-", "against the unpruned twin"), (":", "of the epoch's own step")])
    log_if_positive(left)
    legend_below(figure, [METHODS[name] for name in shown], seeds_text(histories))
    return figure


def _comparison_axes() -> tuple[Figure, tuple[Axes, Axes, Axes]]:
    with sns.axes_style("whitegrid"):
        figure = plt.figure(figsize=(11, 5), layout="constrained")
        grid = figure.add_gridspec(2, 2, height_ratios=(3, 2))
        left, factor = figure.add_subplot(grid[:, 0]), figure.add_subplot(grid[0, 1])
        share = figure.add_subplot(grid[1, 1], sharex=factor)
    factor.tick_params(labelbottom=False)
    plt.close(figure)
    return figure, (left, factor, share)


def loss_by_level(histories: pd.DataFrame, ax: Axes | None = None) -> Figure:
    """Draw the held-out loss by epoch, a line for each target sparsity (paper, figure 5).

    Args:
        histories: a row a run and epoch, of one data set, network and method, and of its unpruned
            twin (sparsity level 0).
        ax: where to draw.
    """
    check_columns(histories, ["level", "epoch"])
    figure, ax = one_axes(ax)
    part, levels = held_out(histories), sorted(histories["level"].unique())
    colours = sns.color_palette("viridis", len(levels))  # ordered, also in grey
    for number, level in enumerate(levels):
        colour = colours[number] if level else "black"
        look = Look(f"{level:.0%}" if level else "unpruned", colour, MARKERS[number])
        runs = histories[histories["level"] == level]
        curve(ax, runs, f"{part}_loss", look, linestyle="-" if level else "--")
    ax.set(xlabel="epoch", ylabel=f"{part} loss (nats an example)")
    log_if_positive(ax)
    legend_beside(ax, f"target sparsity\n{seeds_text(histories)}")
    return figure


def accuracy_against_compression(results: pd.DataFrame, ax: Axes | None = None) -> Figure:
    """Draw test accuracy against compression, a line a method; unpruned runs are lines across.

    Points are means over seeds, bands ± one sample standard deviation of the accuracy.

    Args:
        results: a row a run, of one data set and network.
        ax: where to draw.
    """
    check_columns(results, ["method", "sparsity", "compression_ratio", "test_accuracy"])
    figure, ax = one_axes(ax)
    for name in [*METHODS, "custom"]:
        runs, look = results[results["method"] == name], METHODS.get(name, CUSTOM)
        if name.endswith("unpruned"):
            _across(ax, runs["test_accuracy"], look)
        elif len(runs):
            means = runs.groupby("sparsity")["compression_ratio"].transform("mean")
            curve(ax, runs.assign(compression=means), "test_accuracy", look, x="compression")
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter("{x:g}x")
    ax.set(xlabel="compression (parameters before / after)", ylabel="test accuracy")
    legend_beside(ax, seeds_text(results))
    return figure


def _across(ax: Axes, values: pd.Series, look: Look) -> None:
    """Draw a mean and its band from side to side: the dense control."""
    if len(values):
        mean, spread = values.mean(), values.std()
        line = "--" if look.label == "unpruned" else ":"
        ax.axhline(mean, color=look.colour, linestyle=line, label=f"{look.label} (dense)")
        if len(values) > 1:
            ax.axhspan(mean - spread, mean + spread, color=look.colour, alpha=0.1, linewidth=0)


def twins(histories: pd.DataFrame) -> Figure:
    """Draw the log Bayes factor against the unpruned twin by epoch: in all, and its two parts.

    Args:
        histories: a row a run and epoch, of one data set, network and sparsity, with the columns
            that `results.twins` adds (nats over the data set).
    """
    check_columns(histories, ["epoch", "method", *(f"twin_{name}" for name in PARTS)])
    figure, axes = panels(3)
    shown = [name for name in METHODS if name in set(histories["method"])]
    pruned = [name for name in shown if not name.endswith("unpruned")]
    order = ("log_bf", "log_likelihood_ratio", "log_prior_ratio")
    for ax, part in zip(axes, order, strict=True):
        for name in pruned:
            runs = histories[histories["method"] == name]
            curve(ax, runs, f"twin_{part}", METHODS[name])
        ax.axhline(0, color="black", linewidth=0.8, zorder=1)
        ax.set(xlabel="epoch", ylabel="nats", title=PARTS[part].label)
    legend_below(figure, [METHODS[name] for name in pruned], seeds_text(histories))
    return figure


def by_method(
    histories: pd.DataFrame,
    methods: Sequence[str],
    draw: Callable[[pd.DataFrame, Axes], Figure],
) -> Figure:
    """Draw the same figure for several methods side by side, two in a row, on one scale.

    Args:
        histories: a row a run and epoch, of one data set, network and sparsity.
        methods: what to draw, a panel each.
        draw: `layer_sparsity` or `bayes_factor_parts`.
    """
    rows = (len(methods) + 1) // 2
    with sns.axes_style("whitegrid"):
        size = (11, 3.6 * rows)
        figure, grid = plt.subplots(rows, 2, figsize=size, layout="constrained", sharey=True)
    plt.close(figure)
    for ax, name in zip(grid.flat, methods, strict=False):
        draw(histories[histories["method"] == name], ax)
        ax.set(title=label(name))
        ax.get_legend().remove()
    entries = [ax.get_legend_handles_labels() for ax in grid.flat]
    handles, labels = max(entries, key=lambda entry: len(entry[1]))
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure
