"""What all figures share: colours, markers, axes and legends."""

from collections.abc import Sequence
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


def check_columns(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    """Raise a ValueError that names the columns which a frame lacks."""
    missing = [name for name in columns if name not in frame]
    if missing:
        raise ValueError(f"the frame lacks the columns {missing}; it has {list(frame)}")


def panels(count: int) -> tuple[Figure, Any]:
    """Return a figure of ``count`` panels side by side, and its axes."""
    with sns.axes_style("whitegrid"):
        figure, axes = plt.subplots(1, count, figsize=(5.5 * count, 4), layout="constrained")
    plt.close(figure)  # taken out of pyplot's list: a notebook shows what is returned, once
    return figure, axes


def held_out(history: pd.DataFrame) -> str | None:
    """Return whose loss is shown beside the training loss: validation, else test, else None."""
    parts = ("validation", "test")
    return next((p for p in parts if history.get(f"{p}_loss", pd.Series()).notna().any()), None)


def line(
    axes: Axes, x: pd.Series, y: pd.Series, label: str, marker: str, colour: tuple[float, ...]
) -> None:
    """Draw one line with markers."""
    look: dict[str, Any] = {"marker": marker, "color": colour, "estimator": None, "errorbar": None}
    sns.lineplot(x=x, y=y, ax=axes, label=label, legend=False, **look)


def log_if_positive(ax: Axes) -> None:
    """Losses fall by orders of magnitude; those of a density may be negative."""
    if ax.dataLim.ymin > 0:
        ax.set_yscale("log")


def seeds_text(frame: pd.DataFrame) -> str:
    """Say what a figure's bands are, and that lines without one are of one seed."""
    if "seed" not in frame:
        return BAND
    level = "level" if "level" in frame else "sparsity"
    lines = frame.groupby([name for name in ("method", level) if name in frame])
    seeds = lines["seed"].nunique()
    if seeds.max() == 1:
        return "one seed"
    return BAND if seeds.min() > 1 else f"{BAND}\n({WITHOUT})"


def label(method: str) -> str:
    """Return what a method is called in figures and tables."""
    return METHODS[method].label if method in METHODS else method


def one_axes(ax: Axes | None) -> tuple[Figure, Axes]:
    """Return the axes given, or one of a new figure."""
    if ax is None:
        new, ax = panels(1)
        new.set_size_inches(7, 4)  # the legend stands beside
        return new, ax
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure, ax


def curve(
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
        whole_epochs(ax)


def whole_epochs(ax: Axes) -> None:
    """Let the ticks of the horizontal axis be whole numbers."""
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def legend_above(ax: Axes, *entries: Any) -> None:  # noqa: ANN401
    """Put the legend above, at the right, where it hides nothing."""
    place: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1.02, 0.99)}
    ax.legend(*entries, **place, ncols=4, frameon=False, borderpad=0.2, columnspacing=1.2)


def legend_beside(ax: Axes, title: str) -> None:
    """Put the legend where it hides nothing."""
    place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "frameon": False}
    ax.legend(title=title, title_fontsize="small", **place)


def legend_below(figure: Figure, looks: Sequence[Look], title: str) -> None:
    """Put one legend of all looks below a figure."""
    handles = [Line2D([], [], color=k.colour, marker=k.marker, label=k.label) for k in looks]
    place: dict[str, Any] = {"loc": "outside lower center", "ncols": max(1, len(looks))}
    place |= {"title_fontsize": "small", "frameon": False}
    figure.legend(handles=handles, title=title.replace("\n", " "), **place)


def style_legend(ax: Axes, styles: Sequence[tuple[Any, str | None]]) -> None:
    """Say what line styles mean (colours and markers: the figure's own legend)."""
    handles = [Line2D([], [], color="black", linestyle=s, label=label) for s, label in styles]
    ax.legend(handles=handles)
