"""What a page of HTML is made of: sections, tables of text, figures as inline SVG."""

import io
import itertools
import re
from dataclasses import dataclass, field
from html import escape
from typing import Any

import matplotlib as mpl
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

_numbers = itertools.count()  # of figures: their ids share a page's name space
HEADERS = {
    "nll": "NLL (nats)", "ece": "ECE", "brier": "Brier", "auroc": "AUROC", "r_hat": "rhat",
    "entropy": "entropy (nats)", "mcse_mean": "MCSE of mean", "ess_bulk": "ESS (bulk)",
    "ess_tail": "ESS (tail)", "elpd_loo": "elpd (nats)", "elpd_diff": "difference",
    "se": "SE", "dse": "SE of difference", "p_loo": "effective parameters", "pareto_k": "Pareto k",
    "log_bf": "log BF (nats)", "train_loss": "train loss (nats)", "test_loss": "test loss (nats)",
    "validation_loss": "validation loss (nats)",
}  # fmt: skip
SVG: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "report", "figure.facecolor": "none"}
SVG |= {"axes.facecolor": "none", "savefig.facecolor": "none", "font.size": 11}


@dataclass(frozen=True)
class Table:
    """A table: a caption, a header, rows of text; the first column names the row."""

    caption: str
    header: list[str]
    rows: list[list[str]]
    folded: bool = False


@dataclass(frozen=True)
class Picture:
    """A figure as inline SVG with its alternative text, and the table behind it."""

    svg: Markup
    caption: str
    table: Table | None = None


@dataclass(frozen=True)
class Panel:
    """A section of the page: what it shows, how to read it, what to do."""

    id: str
    title: str
    shows: str
    good: str
    bad: str
    do: str
    content: list[Picture | Table] = field(default_factory=list)
    missing: str = ""


def svg(figure: Figure, alt: str) -> Markup:
    """Return a figure as inline SVG with an alternative text, without any reference outside.

    Ids are made unique: the figures of a page share one name space.
    """
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context(SVG):
        figure.patch.set_alpha(0)
        for axes in figure.axes:
            axes.patch.set_alpha(0)
        figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    prefix = f"f{next(_numbers)}-"
    text = re.sub(r'( id="| href="#|url\(#)', rf"\g<1>{prefix}", text)
    text = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', "", text, count=1)
    text = text.replace("<svg", f'<svg role="img" aria-label="{escape(alt)}"', 1)
    return Markup(text)  # noqa: S704  (Matplotlib escapes the text that it draws)


def table_of(frame: pd.DataFrame, caption: str, *, folded: bool = False) -> Table:
    """Return a frame as a table of text."""
    names = [HEADERS.get(str(name), str(name).replace("_", " ")) for name in frame]
    rows = [[shown(value) for value in row] for row in frame.itertuples(index=False)]
    return Table(caption, names, rows, folded)


def shown(value: Any) -> str:  # noqa: ANN401
    """Return a value as a reader wants to see it."""
    if value is None or (isinstance(value, float) and value != value):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 1e4 else str(value)
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
    return str(value)


def picture(figure: Figure, caption: str, alt: str, frame: pd.DataFrame | None) -> Picture:
    """Return a figure with its table."""
    return Picture(svg(figure, alt), caption, None if frame is None else table_of(frame, caption))
