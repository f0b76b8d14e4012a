"""Figures that compare methods, sparsities and unpruned twins.

All functions raise a ValueError if the data frame lacks a required column.
"""

from collections.abc import Callable, Sequence
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_bayesprune.plots import scales, style
from pyro_bayesprune.plots.style import METHODS, PARTS, Look, curve

Interval = Callable[[pd.Series], tuple[float, float]]
SHIFT = 1.03  # of the points of one method to those of the next, along the compression


def comparison(histories: pd.DataFrame, methods: Sequence[str] | None = None) -> Figure:
    """Draw the paper's learning curves: loss (left), log Bayes factors (right), by epoch.

    Log Bayes factors are in nats over the data set; the paper draws their N-th root
    ``exp(log BF / N)``. Lines compare a network with its unpruned twin at the same epoch. White
    markers without a line belong to the pruning steps, if there are any, and show their decisions.
    The sparsity has its own panel, unless it is constant: then a sentence below the figure says it.

    Args:
        histories: one row per run and epoch of one data set, network and sparsity, with those of
            the unpruned runs. The function `statistics.twins` adds the required columns.
        methods: methods to draw. The default is all methods in the data.
    """
    columns = ["method", "epoch", "train_loss", "log_bf", "twin_log_bf", "decision", "sparsity"]
    style.check_columns(histories, columns)
    names = [name for name in methods or METHODS if name in set(histories["method"])]
    pruned = histories[histories["method"].isin(names) & (histories["sparsity"] > 0)]
    constant = scales.is_uniform(pruned["sparsity"])
    mosaic, ratios = ("AB", (1,)) if constant else ("AB;AC", (3, 1.3))
    options = {"draw": plt.subplot_mosaic, "figsize": (11, 4.6), "height_ratios": ratios}
    figure, axes = style.panels(mosaic, **options)
    for name in names:
        _draw_method(axes, histories[histories["method"] == name], METHODS[name])
    part = style.held_out(histories)
    lines = ({"-": part} if part else {}) | {"--": "train"}
    style.legend_right(axes["A"], [style.sample(Look(t, "black", "", s)) for s, t in lines.items()])
    scales.log_if_positive(axes["A"])
    _label_comparison(axes, pruned)
    scales.nats(axes["B"])
    text = f"{_sparsity_text(pruned)}{style.seeds_text(histories)}" if constant else ""
    handles = [style.sample(METHODS[name]) for name in names]
    style.legend_below(figure, handles, text or style.seeds_text(histories))
    return figure


def _draw_method(axes: dict[str, Axes], runs: pd.DataFrame, look: Look) -> None:
    curve(axes["A"], runs, "train_loss", look, linestyle="--")
    if part := style.held_out(runs):
        curve(axes["A"], runs, f"{part}_loss", look)
    curve(axes["B"], runs, "twin_log_bf", look)
    style.steps(axes["B"], runs, look.colour, markerfacecolor="white", markeredgewidth=1.5)
    if "C" in axes:
        curve(axes["C"], runs, "sparsity", look)


def _label_comparison(axes: dict[str, Axes], pruned: pd.DataFrame) -> None:
    axes["A"].set(xlabel="epoch", ylabel=style.LOSS)
    axes["B"].set(xlabel="epoch", ylabel="log Bayes factor (nats)")
    twin = Look("against the unpruned twin", "black", "")
    steps = style.decision_samples(pruned, gated=False)
    for marker in steps:
        marker.set(label=f"step: {marker.get_label()}", markerfacecolor="white")
    gated = style.threshold(axes["B"], pruned[~pruned["method"].isin(style.UNGATED)])
    lines = [style.sample(style.THRESHOLD)] if gated else []
    style.legend_right(axes["B"], [style.sample(twin), *steps, *lines])
    if "C" in axes:
        axes["B"].set_xlabel("")
        axes["B"].tick_params(labelbottom=False)
        axes["C"].sharex(axes["B"])
        axes["C"].set(xlabel="epoch", ylabel="sparsity", ylim=(-0.05, 1.05), yticks=[0, 0.5, 1])


def _sparsity_text(pruned: pd.DataFrame) -> str:
    """Return the sentence about a sparsity that is constant, or nothing without pruned networks."""
    if not len(pruned):
        return ""
    share = style.percent(pruned["sparsity"].mean())
    return f"sparsity of the pruned networks: {share} in all epochs; "


def loss_by_level(histories: pd.DataFrame, ax: Axes | None = None) -> Figure:
    """Draw the held-out loss by epoch, one line per target sparsity (figure 5 of the paper).

    Without a held-out loss, the training loss is drawn.

    Args:
        histories: one row per run and epoch of one data set, network and method, with those of the
            unpruned twin (sparsity level 0).
        ax: axes to draw on. The default is a new figure.
    """
    style.check_columns(histories, ["level", "epoch"])
    figure, ax = style.one_axes(ax)
    part, levels = style.held_out(histories) or "train", sorted(histories["level"].unique())
    colours = sns.color_palette("viridis", len(levels))  # its brightness has the order of levels
    for number, (level, colour) in enumerate(zip(levels, colours, strict=True)):
        marker = style.MARKERS[number % len(style.MARKERS)]
        look = Look(style.percent(level), colour, marker)
        look = look if level else Look("unpruned", "black", marker, "--")
        curve(ax, histories[histories["level"] == level], f"{part}_loss", look)
    ax.set(xlabel="epoch", ylabel=f"{part} {style.LOSS}")
    scales.log_if_positive(ax)
    title = f"target sparsity\n{style.seeds_text(histories)}"
    style.legend_above(ax, title=title)
    return figure


def accuracy_against_compression(
    results: pd.DataFrame,
    ax: Axes | None = None,
    score: str = "accuracy",
    *,
    num_test: int | None = None,
) -> Figure:
    """Draw test accuracy (or RMSE) against compression, one line per method.

    Points are means over seeds. Bars are 95% intervals: of the mean over several seeds by
    Student's t distribution, of the accuracy of one seed by the binomial distribution of the test
    examples. Unpruned networks are horizontal lines with a band for the interval. The
    points of several methods are shifted sideways by a few per cent, so that bars do not overlap.

    Args:
        results: one row per run of one data set and network. Methods without a look of their own
            may have any name, for example that of a run.
        ax: axes to draw on. The default is a new figure.
        score: ``"accuracy"``, or ``"rmse"`` for targets that are no classes.
        num_test: number of test examples. With it, accuracies of one seed have intervals, and the
            axis spans at least the interval of the test set, so that it does not magnify
            differences which the test set cannot show.
    """
    test, count = f"test_{score}", num_test if score == "accuracy" else None
    highest = 1.0 if score == "accuracy" else np.inf
    interval = partial(scales.score_interval, num_test=count, highest=highest)
    style.check_columns(results, ["method", "sparsity", "compression_ratio", test])
    results = results.dropna(subset=[test])
    figure, ax = style.one_axes(ax)
    looks = style.looks(results["method"])
    pruned = [name for name in looks if not name.endswith("unpruned")]
    for name, look in looks.items():
        runs = results[results["method"] == name].rename(columns={test: "score"})
        if name in pruned:
            shift = SHIFT ** (pruned.index(name) - (len(pruned) - 1) / 2)
            _points(ax, runs, look, interval, shift)
        else:
            _horizontal(ax, runs["score"], look, interval)
    ax.set_xscale("log")
    scales.plain_ticks(ax.xaxis)
    ax.xaxis.set_major_formatter("{x:g}x")
    scales.include_interval(ax, results[test], count)
    names = {"accuracy": "test accuracy", "rmse": "test RMSE"}
    ax.set(xlabel="compression (parameters before / after)", ylabel=names[score])
    style.legend_above(ax, title=_intervals_text(results, count))
    return figure


def _points(ax: Axes, runs: pd.DataFrame, look: Look, interval: Interval, shift: float) -> None:
    """Draw the mean score and its interval at the mean compression of each target sparsity."""
    levels = [level for _, level in runs.groupby("sparsity", dropna=False, sort=False)]
    levels.sort(key=lambda level: level["compression_ratio"].mean())
    x, y = ([level[name].mean() for level in levels] for name in ("compression_ratio", "score"))
    ends = np.array([interval(level["score"]) for level in levels]).T
    style = {"color": look.colour, "marker": look.marker, "label": look.label, "capsize": 3}
    ax.errorbar(
        np.multiply(x, shift), y, np.abs(ends - y), linestyle=look.linestyle, elinewidth=1, **style
    )


def _horizontal(ax: Axes, values: pd.Series, look: Look, interval: Interval) -> None:
    line = "--" if look.label == "unpruned" else ":"
    ax.axhline(values.mean(), color=look.colour, linestyle=line, label=f"{look.label} (dense)")
    low, high = interval(values)
    if low < high:
        ax.axhspan(low, high, color=look.colour, alpha=0.08, linewidth=0)


def _intervals_text(results: pd.DataFrame, num_test: int | None) -> str:
    """Return what the bars of scores show."""
    seeds = results.groupby(["method", "sparsity"], dropna=False).size()
    kinds = [f"binomial, {num_test:,} test examples"] if num_test and seeds.min() == 1 else []
    kinds += ["t over seeds"] if seeds.max() > 1 else []
    return f"bars: 95% intervals ({'; '.join(kinds)})" if kinds else "one seed"


def twins(histories: pd.DataFrame) -> Figure:
    """Draw the log Bayes factor against the unpruned twin by epoch, and its two parts.

    The scale, common to all panels, is linear around zero and logarithmic outside.

    Args:
        histories: one row per run and epoch of one data set, network and sparsity. The function
            `statistics.twins` adds the required columns (nats over the data set).
    """
    style.check_columns(histories, ["epoch", "method", *(f"twin_{name}" for name in PARTS)])
    figure, axes = style.panels(1, 3, figsize=(11, 4), sharey=True)
    names = [n for n in METHODS if n in set(histories["method"]) and not n.endswith("unpruned")]
    for ax, part in zip(axes, ("log_bf", "log_likelihood_ratio", "log_prior_ratio"), strict=True):
        for name in names:
            curve(ax, histories[histories["method"] == name], f"twin_{part}", METHODS[name])
        scales.nats(ax)
        ax.set(xlabel="epoch", title=PARTS[part].label)
    axes[0].set_ylabel("nats")
    handles = [style.sample(METHODS[name]) for name in names]
    style.legend_below(figure, handles, style.seeds_text(histories))
    return figure
