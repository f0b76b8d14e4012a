"""bayesprune bench: measure training and deployment."""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("what", choices=("training", "deploy"), help="what to measure")
    parser.add_argument("run", nargs="?", type=str, help="run folder (deploy only)")
    parser.add_argument("--quick", action="store_true", help="measure fewer rows (training only)")
    parser.add_argument("--json", type=str, help="output file for the numbers; - prints only them")
    parser.add_argument("--data_dir", type=str, help="folder of the data files (deploy only)")


def main(args: Namespace) -> None:
    """Measure, print a table and write the numbers as JSON."""
    from pyro_bayesprune._utils.files import write_atomically

    if args.what == "training":
        from pyro_bayesprune.benchmarks.training import table, training

        result = training(quick=args.quick)
    else:
        from pyro_bayesprune.benchmarks.deploy import table

        result = _measure_deployment(args)
    content = json.dumps(result, indent=2)
    print(content if args.json == "-" else table(result))
    if args.json not in (None, "-"):
        write_atomically(Path(args.json), (content + "\n").encode())


def _measure_deployment(args: Namespace) -> dict[str, Any]:
    from pyro_bayesprune.benchmarks.deploy import deploy_table
    from pyro_bayesprune.experiments.loading import load_run
    from pyro_bayesprune.experiments.running import data_of
    from pyro_bayesprune.models.plain import bake

    if not args.run:
        raise ValueError("bench deploy needs a run folder")
    run = load_run(args.run)
    data = data_of(run, args.data_dir)
    if data.test_x is None or data.test_y is None:
        raise ValueError(f"the data set {run.config.dataset} has no test images")
    return deploy_table(bake(run), data.test_x, data.test_y)
