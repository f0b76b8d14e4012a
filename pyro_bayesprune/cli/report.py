"""bayesprune report: write an HTML report of runs."""

import sys
import warnings
from argparse import Namespace

from jsonargparse import ArgumentParser

METHODS = ("auto", "none", "laplace", "last_layer_laplace", "last_layer_nuts", "nuts")


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("runs", nargs="+", type=str, help="run folders, or folders of run folders")
    parser.add_argument("-o", "--output", type=str, default="report.html", help="output file")
    text = (
        "first draw posterior samples of each finished run, and compute diagnostics and "
        "calibration. laplace, nuts: all surviving weights; last_layer_laplace, last_layer_nuts: "
        "those of the last layer; auto: the last layer, by NUTS for at most 300 weights and "
        "otherwise by Laplace; none: calibration of the MAP estimate only. NUTS supports at most "
        "1000 weights. Networks are compared only if all are drawn by the same method. Stored "
        "draws are reused"
    )
    parser.add_argument("--draws", choices=METHODS, help=text)
    parser.add_argument(
        "--redraw",
        action="store_true",
        help="replace the draws and analyses that runs already have",
    )
    parser.add_argument("--num_draws", type=int, help="draws of each chain (default: 250)")
    parser.add_argument("--chains", type=int, help="chains of NUTS (default: 4)")
    parser.add_argument(
        "--warmup", type=int, help="steps of NUTS that each chain discards (default: 200)"
    )
    parser.add_argument("--foreign", type=str, help="data set for out-of-distribution inputs")
    parser.add_argument("--data_dir", type=str, help="folder of the data files")


def main(args: Namespace) -> None:
    """Write the report and print the path of its file."""
    if args.redraw and not args.draws:
        raise ValueError("--redraw needs --draws with a method")
    sizes = [n for n in ("num_draws", "chains", "warmup") if getattr(args, n) is not None]
    if sizes and args.draws in (None, "none"):
        raise ValueError(f"--{sizes[0]} needs --draws with a method that draws")
    try:
        if args.draws:
            _analyse(args)
        from pyro_bayesprune.reporting.page import report

        print(report(args.runs, args.output))
    except ImportError as error:
        raise ValueError(f"{error}: pip install 'pyro-bayesprune[diagnostics]'") from None


def _analyse(args: Namespace) -> None:
    """Analyse every finished run. With several runs, a failure becomes a warning."""
    from pyro_bayesprune.data.builtin import load_dataset
    from pyro_bayesprune.experiments.errors import RunError
    from pyro_bayesprune.experiments.loading import load_runs
    from pyro_bayesprune.experiments.running import data_of
    from pyro_bayesprune.reporting.analysis import analyse

    options = {"draws": args.num_draws, "chains": args.chains, "warmup": args.warmup}
    sizes = {name: value for name, value in options.items() if value is not None}
    foreign = load_dataset(args.foreign, args.data_dir) if args.foreign else None
    runs = [run for folder in args.runs for run in load_runs(folder)]
    runs = [run for run in runs if run.folder is not None and not run.error]
    if not runs:
        raise ValueError(f"--draws needs a finished run with weights, got none in {args.runs}")
    for run in runs:
        try:
            print(f"analysing {run.folder} (draws: {args.draws})", file=sys.stderr, flush=True)
            data = data_of(run, args.data_dir)
            options = {"foreign": foreign, "redraw": args.redraw, **sizes}
            result = analyse(run, data, method=args.draws, **options)
        except (ValueError, RunError, OSError) as error:
            if len(runs) == 1:
                raise
            warnings.warn(f"{run.folder} is not analysed: {error}", stacklevel=2)
        else:
            if result == run.analysis and result.get("diagnostics"):
                print(f"reusing its draws: {result['draws']}", file=sys.stderr, flush=True)
