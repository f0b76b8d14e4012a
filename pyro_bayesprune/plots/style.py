"""Colours, markers, axes and legends that all figures share."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from textwrap import shorten
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

COLOURS = sns.color_palette("colorblind")
MARKERS = "osD^vPX<>*hp"
BAND = "bands: ± one standard deviation over seeds"
WITHOUT = "lines without band: one seed"
LOSS = "loss (nats per example)"
LONGEST = 100  # characters of a name in a legend above the axes
MANY_ROWS, ROW = 3, 0.2  # rows of such a legend that a figure has room for; inches of another one


@dataclass(frozen=True)
class Look:
    """Label, colour and marker of a line. They are the same in all figures."""

    label: str
    colour: Any
    marker: str
    linestyle: str = "-"


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
DECISIONS = {"pruned": "o", "refused": "X"}  # markers; unchanged steps are not drawn
RUNS = [  # looks of runs without a look of their own: the colours with most contrast
    Look("", COLOURS[number], marker, linestyle)
    for linestyle, markers in (("-", MARKERS[:6]), ("--", MARKERS[6:]))
    for number, marker in zip((0, 1, 2, 3, 4, 9), markers, strict=True)
]
UNLABELLED = Look("_unlabelled", "darkgray", "")  # one of more runs than there are looks
THRESHOLD = Look("threshold", "black", "", "--")
SURVIVORS = Look("surviving weights", COLOURS[0], "")
PRIOR = Look("prior", COLOURS[3], "", "--")
SHARES = colormaps["Blues"].with_extremes(bad="lightgrey")  # of survivors; gaps are grey
UNGATED = ("unpruned", "random", "magnitude")  # methods that ignore the Bayes factor


def label(method: str) -> str:
    """Return the name of a method for figures and tables."""
    return METHODS[method].label if method in METHODS else method


def looks(names: Iterable[str]) -> dict[str, Look]:
    """Return a look for each name: of methods in their order, then of other names, such as runs.

    If there are more than twelve other names, their lines are grey and have no label.
    """
    names = list(dict.fromkeys(names))
    known = {**METHODS, "custom": CUSTOM}
    other = [name for name in names if name not in known]
    few = len(other) <= len(RUNS)
    result = {name: look for name, look in known.items() if name in names}
    for number, name in enumerate(other):
        result[name] = replace(RUNS[number], label=name) if few else UNLABELLED
    return result


def percent(share: float) -> str:
    """Return a share in per cent with up to four digits, so that 99.9% does not look like 100%."""
    return f"{100 * share:.4g}%"


def check_columns(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    """Raise a ValueError if a data frame lacks required columns, which it names, or has no rows."""
    missing = [name for name in columns if name not in frame]
    if missing:
        raise ValueError(f"the frame lacks the columns {missing}; it has {list(frame)}")
    if not len(frame):
        raise ValueError("there is nothing to draw: the frame has no rows")


def panels(*shape: Any, draw: Any = plt.subplots, **options: Any) -> tuple[Figure, Any]:  # noqa: ANN401
    """Return a new figure and its axes. The arguments go to `plt.subplots` or ``draw``."""
    with sns.axes_style("whitegrid"):
        figure, axes = draw(*shape, layout="constrained", **options)
    plt.close(figure)  # otherwise a notebook shows the returned figure twice
    return figure, axes


def one_axes(ax: Axes | None, figsize: tuple[float, float] = (6, 4)) -> tuple[Figure, Axes]:
    """Return the axes and their figure. The default is a new figure."""
    if ax is None:
        return panels(figsize=figsize)
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure, ax


def strip_above(ax: Axes, height: float) -> Axes:
    """Return new axes above others, with the same horizontal axis.

    Args:
        ax: the other axes.
        height: as a share of the height of the other axes.
    """
    with sns.axes_style("whitegrid"):
        strip = ax.inset_axes((0, 1.03, 1, height), sharex=ax)
    strip.tick_params(labelbottom=False)
    return strip


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

    Options go to `Axes.plot`. Markers of dashed and dotted lines are white. Long lines have about
    ten markers. Missing values interrupt the line.
    """
    style: dict[str, Any] = {"color": look.colour, "label": look.label, "marker": look.marker}
    style |= {"linestyle": look.linestyle, "markersize": 5, "markeredgecolor": look.colour}
    style |= {"linewidth": 0.8 if look is UNLABELLED else 1.5} | options
    style |= {"markerfacecolor": "white"} if style["linestyle"] in ("--", ":") else {}
    over_seeds = runs.groupby(x)[y]
    mean, spread = over_seeds.mean(), over_seeds.std()
    if mean.notna().any():
        ax.plot(mean.index, mean, markevery=max(1, round(len(mean) / 10)), **style)
    if spread.notna().any():
        low, high = mean - spread, mean + spread
        ax.fill_between(mean.index, low, high, color=look.colour, alpha=0.15, linewidth=0)
    if x == "epoch":
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def without_unchanged(history: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return a history with missing values in some columns where the decision is "unchanged"."""
    if "decision" not in history:
        return history
    steps = history["decision"] != "unchanged"
    return history.assign(**{name: history[name].where(steps) for name in columns})


def steps(ax: Axes, history: pd.DataFrame, colour: Any, **options: Any) -> None:  # noqa: ANN401
    """Draw the log Bayes factor of each pruning step, with the marker of its decision."""
    options = {"color": colour, "linestyle": "", "markersize": 7, "markeredgewidth": 0.8} | options
    for decision, marker in DECISIONS.items():
        chosen = history[history["decision"] == decision]
        if len(chosen):
            ax.plot(chosen["epoch"], chosen["log_bf"], marker=marker, label=decision, **options)


def threshold(ax: Axes, history: pd.DataFrame, colour: Any = "black") -> bool:  # noqa: ANN401
    """Draw the gate's threshold as a dashed line, and return whether there is one.

    Runs without a step and methods that ignore the Bayes factor have none. The threshold of the
    gate ``retain`` changes from step to step, and an epoch without a step has none.
    """
    ungated = set(history.get("method", ())) <= set(UNGATED) and "method" in history
    stepless = set(history.get("decision", ())) == {"unchanged"}
    if "log_threshold" not in history or ungated or stepless:
        return False
    values = history.groupby("epoch")["log_threshold"].mean()
    values = values.where(np.isfinite(values))
    epochs = np.stack([values.index - 0.5, values.index + 0.5], 1).ravel()
    line = {"color": colour, "linestyle": "--", "linewidth": 1, "label": "threshold"}
    if values.notna().any():
        ax.plot(epochs, np.repeat(values, 2), zorder=1.5, **line)
    return bool(values.notna().any())


def seeds_text(frame: pd.DataFrame) -> str:
    """Return the explanation of a figure's bands, and of lines of one seed, which have none."""
    if "seed" not in frame:
        return BAND
    level = "level" if "level" in frame else "sparsity"
    seeds = frame.groupby([name for name in ("method", level) if name in frame])["seed"].nunique()
    if seeds.max() == 1:
        return "one seed"
    return BAND if seeds.min() > 1 else f"{BAND}\n({WITHOUT})"


def legend_above(ax: Axes, handles: Sequence[Any] | None = None, **options: Any) -> None:  # noqa: ANN401
    """Put a legend above the axes, where it covers no data. Options go to `Axes.legend`.

    A figure with one axes becomes higher by the rows of a long legend.
    """
    handles = handles or ax.get_legend_handles_labels()[0]
    for handle in handles:
        handle.set_label(shorten(str(handle.get_label()), LONGEST, placeholder=" …"))
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
    place |= {"title_fontsize": "small", "alignment": "left", "columnspacing": 1.2}
    options = _legend(handles) | place | options
    ax.legend(handles=handles, **options)
    more = math.ceil(len(handles) / options["ncols"]) - MANY_ROWS
    if isinstance(ax.figure, Figure) and len(ax.figure.axes) == 1 and more > 0:
        ax.figure.set_figheight(ax.figure.get_figheight() + more * ROW)


def legend_right(ax: Axes, handles: Sequence[Any] | None = None) -> None:
    """Put a legend in one row above the right end of the axes, beside a title on the left."""
    handles = handles or ax.get_legend_handles_labels()[0]
    place: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1, 1)}
    legend_above(ax, handles, ncols=max(1, len(handles)), **place)


def legend_below(figure: Figure, handles: Sequence[Any], title: str = "") -> int:
    """Put one legend below a figure, and return the number of its rows."""
    place: dict[str, Any] = {"loc": "outside lower center", "title_fontsize": "small"}
    options = _legend(handles, figure.get_figwidth()) | place
    figure.legend(handles=handles, title=title.replace("\n", " ") or None, **options)
    return math.ceil(len(handles) / options["ncols"])


def _legend(handles: Sequence[Any], width: float = 6.0) -> dict[str, Any]:
    """Return options of a legend with as many columns as fit into a width (inches)."""
    longest = max((len(handle.get_label()) for handle in handles), default=0)
    columns = max(1, min(len(handles), int(13 * width / (longest + 8))))
    return {"ncols": columns, "fontsize": "small", "frameon": False}


def sample(look: Look, **options: Any) -> Line2D:  # noqa: ANN401
    """Return a line for a legend."""
    style: dict[str, Any] = {"color": look.colour, "marker": look.marker, "label": look.label}
    return Line2D([], [], **(style | {"linestyle": look.linestyle} | options))


def decision_samples(histories: pd.DataFrame, gated: bool) -> list[Line2D]:
    """Return what a legend shows of pruning steps: the decisions that occur, and the threshold."""
    occurring = set(histories["decision"])
    markers = [Look(d, "black", m, "") for d, m in DECISIONS.items() if d in occurring]
    return [sample(look) for look in markers + ([THRESHOLD] if gated else [])]
