"""bayesprune paper: the paper's Table 1 and figures."""

import sys
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from pyro_bayesprune.cli.common import UserError


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("what", choices=("table1", "figures"), help="what to make")
    parser.add_argument("store", type=str, help="folder of run folders, or of results.csv")
    formats = "markdown, csv or html for table1; png, svg or pdf for figures (default: the first)"
    choices = ("markdown", "csv", "html", "png", "svg", "pdf")
    parser.add_argument("--format", choices=choices, help=formats)
    parser.add_argument("--out", type=str, help="file of table1; folder of figures")
    parser.add_argument("--where", type=str, help="which runs, if several: setting=value,…")


def _pairs(text: str) -> dict[str, str]:
    parts = [part.partition("=") for part in text.split(",")] if text else []
    if not all(equals for _, equals, _ in parts):
        raise UserError(f"--where must be setting=value,…, got {text!r}")
    return {name.strip(): value.strip() for name, _, value in parts}


def main(given: Namespace) -> int:
    """Run the command; return its exit code."""
    table, figures = ("markdown", "csv", "html"), ("png", "svg", "pdf")
    allowed = table if given["what"] == "table1" else figures
    chosen = given.get("format") or allowed[0]
    if chosen not in allowed:
        raise UserError(f"{given['what']} is written as {', '.join(allowed)}, not as {chosen}")
    make = _paper_table1 if given["what"] == "table1" else _paper_figures
    make(given["store"], chosen, given.get("out"), _pairs(given.get("where") or ""))
    return 0


def _paper_table1(store: str, form: str, out: str | None, where: dict[str, str]) -> None:
    from pyro_bayesprune.experiments.results import load_results
    from pyro_bayesprune.paper.table import FORMATS, notes, table1

    results = load_results(store)
    text = FORMATS[form](table1(results, where), notes(results, where))
    if out is None:
        print(text)
        return
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_text(text, encoding="utf-8")
    print(out)


def _paper_figures(store: str, form: str, out: str | None, where: dict[str, str]) -> None:
    from pyro_bayesprune.paper.drawing import figures

    written, missing = figures(store, out or "figures", format=form, where=where)
    for path in written:
        print(path)
    for line in missing:
        print(f"not made: {line}", file=sys.stderr)
