"""bayesprune bench: measure training and deployment."""

import json
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from pyro_bayesprune.cli.common import UserError


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("what", choices=("training", "deploy"), help="what to measure")
    parser.add_argument("run", nargs="?", type=str, help="run folder (deploy)")
    parser.add_argument("--quick", action="store_true", help="training: fewer rows, a minute")
    parser.add_argument("--json", type=str, help="file of the numbers; - prints them alone")
    parser.add_argument("--data_dir", type=str, help="folder of the data files (deploy)")


def main(given: Namespace) -> int:
    """Run the command; return its exit code."""
    from pyro_bayesprune._utils.files import write_atomically

    if given["what"] == "training":
        from pyro_bayesprune.benchmarks.training import table, training

        result = training(quick=bool(given.get("quick")))
    else:
        from pyro_bayesprune.benchmarks.deploy_tables import table

        result = _bench_deploy(given)
    content = json.dumps(result, indent=2)
    if given.get("json") == "-":
        print(content)
        return 0
    print(table(result))
    if given.get("json"):
        write_atomically(Path(given["json"]), (content + "\n").encode())
    return 0


def _bench_deploy(given: Namespace) -> dict[str, Any]:
    from pyro_bayesprune.benchmarks.deploy import deploy_table
    from pyro_bayesprune.experiments.build import build_data
    from pyro_bayesprune.experiments.loading import load_run
    from pyro_bayesprune.models.plain import bake

    if not given.get("run"):
        raise UserError("bench deploy needs a run folder")
    result = load_run(given["run"])
    data = build_data(result.config, given.get("data_dir"))
    if data.test_x is None or data.test_y is None:
        raise UserError(f"{result.config.dataset} has no test images")
    return deploy_table(bake(result), data.test_x, data.test_y)
