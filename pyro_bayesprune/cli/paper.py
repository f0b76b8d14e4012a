"""bayesprune paper: make the paper's Table 1 and figures."""

import sys
from argparse import Namespace

from jsonargparse import ArgumentParser

FORMATS = {"table1": ("markdown", "csv", "html"), "figures": ("png", "svg", "pdf")}


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("what", choices=tuple(FORMATS), help="what to make")
    parser.add_argument("store", type=str, help="folder of run folders or of a results.csv")
    text = "markdown, csv or html for table1; png, svg or pdf for figures (default: the first)"
    choices = [name for formats in FORMATS.values() for name in formats]
    parser.add_argument("--format", choices=choices, help=text)
    parser.add_argument("--out", type=str, help="output file of table1; output folder of figures")


def main(args: Namespace) -> None:
    """Write the table or the figures."""
    formats = FORMATS[args.what]
    args.format = args.format or formats[0]
    if args.format not in formats:
        raise ValueError(f"{args.what} needs a format of {', '.join(formats)}, got {args.format}")
    if args.what == "table1":
        _make_table1(args)
    else:
        _make_figures(args)


def _make_table1(args: Namespace) -> None:
    from pyro_bayesprune._utils.files import path_of, write_atomically
    from pyro_bayesprune.experiments.results import load_results
    from pyro_bayesprune.paper.table import FORMATS as WRITERS
    from pyro_bayesprune.paper.table import notes, table1

    results = load_results(args.store)
    text = WRITERS[args.format](table1(results), notes(results))
    if args.out:
        write_atomically(path_of(args.out), text.encode())
    print(args.out or text)


def _make_figures(args: Namespace) -> None:
    from pyro_bayesprune.paper.drawing import figures

    paths, missing = figures(args.store, args.out or "figures", format=args.format)
    for path in paths:
        print(path)
    for line in missing:
        print(f"not made: {line}", file=sys.stderr)
