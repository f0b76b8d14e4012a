"""Figures of runs: functions of their frames that return a figure and show nothing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

COLOURS = sns.color_palette("colorblind")
BAND = "bands: ± one standard\ndeviation over seeds"
WITHOUT = "lines without: one seed"


@dataclass(frozen=True)
class Look:
    """How a method is drawn, in every figure alike: colours of a colour-blind-safe palette."""

    label: str
    colour: Any
    marker: str


METHODS = {
    "unpruned": Look("unpruned", "black", "o"),
    "bayes_unpruned": Look("Bayes unpruned", "dimgray", "P"),
    "random": Look("random", COLOURS[1], "v"),
    "bayes_random": Look("Bayes random", COLOURS[3], "s"),
    "magnitude": Look("magnitude", COLOURS[9], "^"),
    "bayes_magnitude": Look("Bayes magnitude", COLOURS[0], "D"),
}
CUSTOM = Look("custom", COLOURS[4], "X")
PARTS = {
    "log_likelihood_ratio": Look("likelihood part", COLOURS[0], "s"),
    "log_prior_ratio": Look("prior part", COLOURS[1], "^"),
    "log_bf": Look("log Bayes factor", "black", "o"),
}
OCCAM = {"log_occam_ratio": Look("Occam factor", COLOURS[2], "^")}  # of kind laplace only
UNGATED = ("unpruned", "random", "magnitude")  # pruned whatever the Bayes factor
MARKERS = "osD^vPX<>*hp"


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
    _need(history, ["epoch", "train_loss", "log_bf", "decision", "sparsity"])
    figure, (left, right) = _panels(2)
    _losses(left, history)
    _steps(right, history)
    return figure


def _need(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    missing = [name for name in columns if name not in frame]
    if missing:
        raise ValueError(f"the frame lacks the columns {missing}; it has {list(frame)}")


def _panels(count: int) -> tuple[Figure, Any]:
    with sns.axes_style("whitegrid"):
        figure, axes = plt.subplots(1, count, figsize=(5.5 * count, 4), layout="constrained")
    plt.close(figure)  # taken out of pyplot's list: a notebook shows what is returned, once
    return figure, axes


def held_out(history: pd.DataFrame) -> str | None:
    """Return whose loss is shown beside the training loss: validation, else test, else None."""
    parts = ("validation", "test")
    return next((p for p in parts if history.get(f"{p}_loss", pd.Series()).notna().any()), None)


def _losses(axes: Axes, history: pd.DataFrame) -> None:
    parts = [("train", "o", COLOURS[0]), (held_out(history), "s", COLOURS[1])]
    for part, marker, colour in parts:
        if part:
            _line(axes, history["epoch"], history[f"{part}_loss"], part, marker, colour)
    axes.set(xlabel="epoch", ylabel="loss (nats an example)", title="Loss")
    _whole_epochs(axes)
    axes.legend()


def _steps(axes: Axes, history: pd.DataFrame) -> None:
    epoch, refused = history["epoch"], history[history["decision"] == "refused"]
    _line(axes, epoch, history["log_bf"], "log Bayes factor", "o", COLOURS[2])
    if len(refused):
        look: dict[str, Any] = {"color": "black", "marker": "X", "s": 90, "zorder": 4}
        axes.scatter(refused["epoch"], refused["log_bf"], label="refused", **look)
    axes.set(xlabel="epoch", ylabel="log Bayes factor (nats)")
    axes.set_title("Pruning steps", loc="left")
    _whole_epochs(axes)
    share = axes.twinx()
    _line(share, epoch, history["sparsity"], "sparsity", "^", COLOURS[3])
    share.set(ylabel="sparsity (share of prunable weights)", ylim=(-0.02, 1.02))
    share.grid(False)  # one grid is enough; two that do not meet mislead
    handles = [axes.get_legend_handles_labels(), share.get_legend_handles_labels()]
    _legend_above(share, *(one + other for one, other in zip(*handles, strict=True)))


def _line(
    axes: Axes, x: pd.Series, y: pd.Series, label: str, marker: str, colour: tuple[float, ...]
) -> None:
    look: dict[str, Any] = {"marker": marker, "color": colour, "estimator": None, "errorbar": None}
    sns.lineplot(x=x, y=y, ax=axes, label=label, legend=False, **look)


def comparison(histories: pd.DataFrame, methods: Sequence[str] | None = None) -> Figure:
    """Draw the paper's learning curves: loss (left), Bayes factor and sparsity (right) by epoch.

    Bayes factors are per datum, BF^(1/N): against the unpruned twin at the same epoch (solid), and
    of the epoch's own step (dotted; one once the target is reached and masks persist).

    Args:
        histories: a row a run and epoch, of one data set, network and sparsity (unpruned runs
            besides), with the columns that `results.twins` adds.
        methods: what to draw, by default all that is there.
    """
    _need(histories, ["method", "epoch", "train_loss", "bf_per_datum", "twin_bf_per_datum"])
    figure, (left, factor, share) = _comparison_axes()
    shown = [name for name in methods or METHODS if name in set(histories["method"])]
    for name in shown:
        runs, look = histories[histories["method"] == name], METHODS[name]
        _curve(left, runs, "train_loss", look, linestyle="--")
        if part := held_out(runs):
            _curve(left, runs, f"{part}_loss", look)
        _curve(factor, runs, "twin_bf_per_datum", look)
        if name not in ("unpruned", "bayes_unpruned"):
            _curve(factor, runs, "bf_per_datum", look, linestyle=":")
        _curve(share, runs, "sparsity", look)
    factor.axhline(1, color="black", linewidth=0.8, zorder=1)
    left.set(xlabel="epoch", ylabel="loss (nats an example)", title="Loss")
    factor.set(xlabel="", ylabel="Bayes factor per datum", title="Bayes factor and sparsity")
    share.set(xlabel="epoch", ylabel="sparsity", ylim=(-0.05, 1.05))
    part = held_out(histories)
    _style_legend(left, [("-", part)] * bool(part) + [("--", "train")])
    _style_legend(factor, [("-", "against the unpruned twin"), (":", "of the epoch's own step")])
    _log_if_positive(left)
    _legend_below(figure, [METHODS[name] for name in shown], _seeds(histories))
    return figure


def _log_if_positive(ax: Axes) -> None:
    """Losses fall by orders of magnitude; those of a density may be negative."""
    if ax.dataLim.ymin > 0:
        ax.set_yscale("log")


def _seeds(frame: pd.DataFrame) -> str:
    """Say what a figure's bands are, and that lines without one are of one seed."""
    if "seed" not in frame:
        return BAND
    level = "level" if "level" in frame else "sparsity"
    lines = frame.groupby([name for name in ("method", level) if name in frame])
    seeds = lines["seed"].nunique()
    if seeds.max() == 1:
        return "one seed"
    return BAND if seeds.min() > 1 else f"{BAND}\n({WITHOUT})"


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
    _need(histories, ["level", "epoch"])
    figure, ax = _one(ax)
    part, levels = held_out(histories), sorted(histories["level"].unique())
    colours = sns.color_palette("viridis", len(levels))  # ordered, also in grey
    for number, level in enumerate(levels):
        colour = colours[number] if level else "black"
        look = Look(f"{level:.0%}" if level else "unpruned", colour, MARKERS[number])
        runs = histories[histories["level"] == level]
        _curve(ax, runs, f"{part}_loss", look, linestyle="-" if level else "--")
    ax.set(xlabel="epoch", ylabel=f"{part} loss (nats an example)")
    _log_if_positive(ax)
    _legend_beside(ax, f"target sparsity\n{_seeds(histories)}")
    return figure


def accuracy_against_compression(results: pd.DataFrame, ax: Axes | None = None) -> Figure:
    """Draw test accuracy against compression, a line a method; unpruned runs are lines across.

    Points are means over seeds, bands ± one sample standard deviation of the accuracy.

    Args:
        results: a row a run, of one data set and network.
        ax: where to draw.
    """
    _need(results, ["method", "sparsity", "compression_ratio", "test_accuracy"])
    figure, ax = _one(ax)
    for name in [*METHODS, "custom"]:
        runs, look = results[results["method"] == name], METHODS.get(name, CUSTOM)
        if name.endswith("unpruned"):
            _across(ax, runs["test_accuracy"], look)
        elif len(runs):
            means = runs.groupby("sparsity")["compression_ratio"].transform("mean")
            _curve(ax, runs.assign(compression=means), "test_accuracy", look, x="compression")
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter("{x:g}x")
    ax.set(xlabel="compression (parameters before / after)", ylabel="test accuracy")
    _legend_beside(ax, _seeds(results))
    return figure


def _across(ax: Axes, values: pd.Series, look: Look) -> None:
    """Draw a mean and its band from side to side: the dense control."""
    if len(values):
        mean, spread = values.mean(), values.std()
        line = "--" if look.label == "unpruned" else ":"
        ax.axhline(mean, color=look.colour, linestyle=line, label=f"{look.label} (dense)")
        if len(values) > 1:
            ax.axhspan(mean - spread, mean + spread, color=look.colour, alpha=0.1, linewidth=0)


def layer_sparsity(histories: pd.DataFrame, ax: Axes | None = None) -> Figure:
    """Draw the sparsity of each layer and of all together by epoch.

    Args:
        histories: a row an epoch, of the runs of one configuration; columns ``sparsity/<layer>``.
        ax: where to draw.
    """
    seen = histories.dropna(axis="columns", how="all")
    layers = [name for name in map(str, seen) if name.startswith("sparsity/")]
    figure, ax = _one(ax)
    for number, name in enumerate(layers):
        label = name.removeprefix("sparsity/").removesuffix(".weight")
        look = Look(label, COLOURS[number % len(COLOURS)], MARKERS[1:][number % 11])
        size = 5 + 2 * (len(layers) - number)  # layers that are pruned alike lie on one another
        _curve(ax, histories, name, look, markersize=size)
    _curve(ax, histories, "sparsity", Look("all", "black", "o"), linestyle="--")
    ax.set(xlabel="epoch", ylabel="share of weights that are zero", ylim=(-0.05, 1.05))
    _legend_beside(ax, "layer")
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
    _need(histories, ["epoch", *PARTS])
    figure, ax = _one(ax)
    occam = OCCAM if histories.get("log_occam_ratio", pd.Series(dtype=float)).any() else {}
    for name, look in (occam | PARTS).items():
        _curve(ax, histories, name, look)
    thresholds = histories.get("log_threshold", pd.Series(dtype=float))
    gated = not set(histories.get("method", ())) & set(UNGATED)
    if gated and len(thresholds) and thresholds.abs().max() < float("inf"):
        ax.axhline(thresholds.iloc[0], color="grey", linestyle="--", label="threshold")
    ax.set_yscale("symlog", linthresh=1)
    ax.axhline(0, color="black", linewidth=0.8, zorder=1)
    ax.set(xlabel="epoch", ylabel="log Bayes factor (nats)")
    _legend_beside(ax, "of the epoch's step")
    return figure


def twins(histories: pd.DataFrame) -> Figure:
    """Draw the log Bayes factor against the unpruned twin by epoch: in all, and its two parts.

    Args:
        histories: a row a run and epoch, of one data set, network and sparsity, with the columns
            that `results.twins` adds (nats over the data set).
    """
    _need(histories, ["epoch", "method", *(f"twin_{name}" for name in PARTS)])
    figure, axes = _panels(3)
    shown = [name for name in METHODS if name in set(histories["method"])]
    pruned = [name for name in shown if not name.endswith("unpruned")]
    order = ("log_bf", "log_likelihood_ratio", "log_prior_ratio")
    for ax, part in zip(axes, order, strict=True):
        for name in pruned:
            runs = histories[histories["method"] == name]
            _curve(ax, runs, f"twin_{part}", METHODS[name])
        ax.axhline(0, color="black", linewidth=0.8, zorder=1)
        ax.set(xlabel="epoch", ylabel="nats", title=PARTS[part].label)
    _legend_below(figure, [METHODS[name] for name in pruned], _seeds(histories))
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


def label(method: str) -> str:
    """Return what a method is called in figures and tables."""
    return METHODS[method].label if method in METHODS else method


def _one(ax: Axes | None) -> tuple[Figure, Axes]:
    """Return the axes given, or one of a new figure."""
    if ax is None:
        new, ax = _panels(1)
        new.set_size_inches(7, 4)  # the legend stands beside
        return new, ax
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure, ax


def _curve(
    ax: Axes,
    runs: pd.DataFrame,
    y: str,
    look: Look,
    x: str = "epoch",
    linestyle: str = "-",
    markersize: float = 5,
) -> None:
    """Draw the mean over seeds, with a band of ± one sample standard deviation."""
    style: dict[str, Any] = {"color": look.colour, "linestyle": linestyle, "label": look.label}
    style |= {"marker": look.marker, "markersize": markersize, "markeredgecolor": look.colour}
    style |= {"markerfacecolor": "white"} if linestyle in ("--", ":") else {}
    over_seeds = runs.dropna(subset=[y]).groupby(x)[y]
    mean, spread = over_seeds.mean(), over_seeds.std()
    if len(mean):
        ax.plot(mean.index, mean, **style)
        band: dict[str, Any] = {"color": look.colour, "alpha": 0.15, "linewidth": 0}
        ax.fill_between(mean.index, mean - spread, mean + spread, **band)
    if x == "epoch":
        _whole_epochs(ax)


def _whole_epochs(ax: Axes) -> None:
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _legend_above(ax: Axes, *entries: Any) -> None:  # noqa: ANN401
    """Put the legend above, at the right, where it hides nothing."""
    place: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1.02, 0.99)}
    ax.legend(*entries, **place, ncols=4, frameon=False, borderpad=0.2, columnspacing=1.2)


def _legend_beside(ax: Axes, title: str) -> None:
    """Put the legend where it hides nothing."""
    place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "frameon": False}
    ax.legend(title=title, title_fontsize="small", **place)


def _legend_below(figure: Figure, looks: Sequence[Look], title: str) -> None:
    handles = [Line2D([], [], color=k.colour, marker=k.marker, label=k.label) for k in looks]
    place: dict[str, Any] = {"loc": "outside lower center", "ncols": max(1, len(looks))}
    place |= {"title_fontsize": "small", "frameon": False}
    figure.legend(handles=handles, title=title.replace("\n", " "), **place)


def _style_legend(ax: Axes, styles: Sequence[tuple[Any, str | None]]) -> None:
    """Say what line styles mean (colours and markers: the figure's own legend)."""
    handles = [Line2D([], [], color="black", linestyle=s, label=label) for s, label in styles]
    ax.legend(handles=handles)
