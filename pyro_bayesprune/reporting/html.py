"""Building blocks of the HTML page: panels, cards, tables of text and images of figures."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import matplotlib as mpl
import pandas as pd
import yaml
from matplotlib.figure import Figure

from pyro_bayesprune.diagnostics import thresholds
from pyro_bayesprune.experiments.loading import Run

TEXTS = yaml.safe_load(
    (resources.files("pyro_bayesprune.reporting") / "texts.yaml").read_text(encoding="utf-8")
)
STYLE: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "report", "font.size": 11}


@dataclass(frozen=True)
class Card:
    """A number with its name and a note that explains it."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Cards:
    """Several cards beside each other."""

    cards: Sequence[Card]
    caption: str = ""


@dataclass(frozen=True)
class Table:
    """A table of text with a caption. The first column contains the names of the rows.

    The page shows the first ten rows, or only the caption if the table is ``folded``.
    """

    caption: str
    header: list[str]
    rows: list[list[str]]
    folded: bool = False


@dataclass(frozen=True)
class Picture:
    """An image with its caption, its alternative text and optionally a table of its data."""

    source: str
    caption: str
    alt: str
    table: Table | None = None
    wide: bool = False


@dataclass(frozen=True)
class Group:
    """Content that is folded under a title."""

    title: str
    content: Sequence["Picture | Table | Cards | Group"]


Content = list[Picture | Table | Cards | Group]


@dataclass(frozen=True)
class Panel:
    """A section of the page: its texts, its content, and a note about the content."""

    id: str
    texts: dict[str, str]
    content: Sequence[Picture | Table | Cards | Group]
    note: str


def panel(name: str, content: Sequence[Picture | Table | Cards | Group], note: str = "") -> Panel:
    """Return a section with its texts from texts.yaml.

    Args:
        name: name of the section in texts.yaml.
        content: what the section shows. If it is empty, a sentence explains why.
        note: sentence that is added to the content.
    """
    texts = {key: text.format(**vars(thresholds)) for key, text in TEXTS["panels"][name].items()}
    return Panel(name, texts, content, note if content else texts["missing"])


def picture(
    figure: Figure,
    name: str,
    table: pd.DataFrame | Table | None = None,
    **values: Any,  # noqa: ANN401
) -> Picture:
    """Return a figure as an SVG image in a data URI, with a transparent background.

    Args:
        figure: Matplotlib figure. If it is wider than 8 inches, it fills the width of the page.
        name: name of its caption and alternative text in texts.yaml.
        table: data behind the figure.
        **values: values in the texts.
    """
    caption, alt = (text.format(**values) for text in TEXTS["pictures"][name])
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(
            buffer, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None}
        )
    source = "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
    table = table_of(table, caption) if isinstance(table, pd.DataFrame) else table
    return Picture(source, caption, alt, table, figure.get_figwidth() > 8)


def of(run: Run) -> str:
    """Return what captions say about a run: nothing if it is the only one of the page."""
    return f" ({run.label})" if run.label else ""


def table_of(frame: pd.DataFrame, caption: str, *, folded: bool = False) -> Table:
    """Return a data frame as a table of text, without columns that are empty."""
    frame = frame.dropna(axis="columns", how="all")
    header = [TEXTS["headers"].get(str(name), str(name).replace("_", " ")) for name in frame]
    rows = [[formatted(value) for value in row] for row in frame.itertuples(index=False)]
    return Table(caption, header, rows, folded)


def formatted(value: Any) -> str:  # noqa: ANN401
    """Return a value as text: numbers with four significant digits, a dash for no value."""
    if value is None or value != value:  # NaN
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
    return str(value)


def span(values: Sequence[float | None], style: str, unit: str = "") -> str:
    """Return the range of the values as text, or one value if all look the same."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return "not measured"
    ends = dict.fromkeys(format(value, style) for value in (known[0], known[-1]))
    return " to ".join(ends) + unit
