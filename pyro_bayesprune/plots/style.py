"""Colours, markers, axes and legends that all figures share."""

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
MARKERS = "osD^vPX<>*hp"
BAND = "bands: ± one standard\ndeviation over seeds"
WITHOUT = "lines without band: one seed"
LOSS = "loss (nats per example)"


@dataclass(frozen=True)
class Look:
    """Label, colour and marker of a line. They are the same in all figures."""

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
PARTS = {  # of the log Bayes factor
    "log_likelihood_ratio": Look("likelihood part", COLOURS[0], "s"),
    "log_prior_ratio": Look("prior part", COLOURS[1], "^"),
    "log_bf": Look("log Bayes factor", "black", "o"),
}
OCCAM = {"log_occam_ratio": Look("Occam factor", COLOURS[2], "^")}  # only of the kind "laplace"
UNGATED = ("unpruned", "random", "magnitude")  # methods that ignore the Bayes factor


def label(method: str) -> str:
    """Return the name of a method for figures and tables."""
    return METHODS[method].label if method in METHODS else method


def check_columns(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    """Raise a ValueError that names the required columns that a data frame lacks."""
    missing = [name for name in columns if name not in frame]
    if missing:
        raise ValueError(f"the frame lacks the columns {missing}; it has {list(frame)}")


def panels(*shape: Any, draw: Any = plt.subplots, **options: Any) -> tuple[Figure, Any]:  # noqa: ANN401
    """Return a new figure and its axes. The arguments go to `plt.subplots` or ``draw``."""
    with sns.axes_style("whitegrid"):
        figure, axes = draw(*shape, layout="constrained", **options)
    plt.close(figure)  # otherwise a notebook shows the returned figure twice
    return figure, axes


def one_axes(ax: Axes | None) -> tuple[Figure, Axes]:
    """Return the axes and their figure. The default is a new figure with space for a legend."""
    if ax is None:
        return panels(figsize=(7, 4))
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure, ax


def held_out(history: pd.DataFrame) -> str | None:
    """Return which held-out loss is drawn: validation if it exists, else test, else None."""
    parts = ("validation", "test")
    return next((p for p in parts if history.get(f"{p}_loss", pd.Series()).notna().any()), None)


def curve(
    ax: Axes,
    runs: pd.DataFrame,
    y: str,
    look: Look,
    *,
    x: str = "epoch",
    **options: Any,  # noqa: ANN401
) -> None:
    """Draw the mean of a column over seeds, with a band of ± one sample standard deviation.

    Options go to `Axes.plot`. Markers of dashed and dotted lines are white.
    """
    style: dict[str, Any] = {"color": look.colour, "label": look.label, "marker": look.marker}
    style |= {"markersize": 5, "markeredgecolor": look.colour} | options
    style |= {"markerfacecolor": "white"} if options.get("linestyle") in ("--", ":") else {}
    over_seeds = runs.dropna(subset=[y]).groupby(x)[y]
    mean, spread = over_seeds.mean(), over_seeds.std()
    if len(mean):
        ax.plot(mean.index, mean, **style)
    if spread.notna().any():
        low, high = mean - spread, mean + spread
        ax.fill_between(mean.index, low, high, color=look.colour, alpha=0.15, linewidth=0)
    if x == "epoch":
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def log_if_positive(ax: Axes) -> None:
    """Use a logarithmic scale, unless losses are negative. The losses of densities can be."""
    if ax.dataLim.ymin > 0:
        ax.set_yscale("log")


def seeds_text(frame: pd.DataFrame) -> str:
    """Return the explanation of a figure's bands, and of lines of one seed, which have none."""
    if "seed" not in frame:
        return BAND
    level = "level" if "level" in frame else "sparsity"
    seeds = frame.groupby([name for name in ("method", level) if name in frame])["seed"].nunique()
    if seeds.max() == 1:
        return "one seed"
    return BAND if seeds.min() > 1 else f"{BAND}\n({WITHOUT})"


def legend_beside(ax: Axes, title: str) -> None:
    """Put the legend to the right of the axes."""
    place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "frameon": False}
    ax.legend(title=title, title_fontsize="small", **place)


def legend_below(figure: Figure, looks: Sequence[Look], title: str) -> None:
    """Put one legend of all methods below a figure."""
    handles = [Line2D([], [], color=k.colour, marker=k.marker, label=k.label) for k in looks]
    place: dict[str, Any] = {"loc": "outside lower center", "ncols": max(1, len(looks))}
    place |= {"title_fontsize": "small", "frameon": False}
    figure.legend(handles=handles, title=title.replace("\n", " "), **place)


def linestyle_legend(ax: Axes, meanings: dict[Any, str]) -> None:
    """Explain what line styles mean."""
    handles = [Line2D([], [], color="black", linestyle=s, label=m) for s, m in meanings.items()]
    ax.legend(handles=handles)
