"""Train the paper's FCN on MNIST and measure the ways to deploy it.

    python reports/deploy/make.py --epochs 3

writes a JSON file for each of two pruned networks into this folder, and the tables of README.md
between the comments that name them. Check the sentences of README.md against the new tables.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pyro_bayesprune._utils.files import write_atomically
from pyro_bayesprune._utils.tables import fill
from pyro_bayesprune.benchmarks.deploy import deploy_table, table
from pyro_bayesprune.data.builtin import load_dataset
from pyro_bayesprune.experiments.config import PRESETS, Config
from pyro_bayesprune.experiments.running import run
from pyro_bayesprune.models.plain import bake

HERE = Path(__file__).parent
PAGE = HERE / "README.md"
NETWORKS = {
    "dense": {"sparsity": 0.0},
    "99_of_the_weights": {"sparsity": 0.99},
    "90_of_the_units": {"sparsity": 0.9, "scope": "unit"},
}


def measure(runs: str, data_dir: str | None, epochs: int) -> None:
    """Train the networks and write their measurements. Finished runs are not repeated."""
    mle = {"objective": "mle", "gate": "always", "epochs": epochs, "dataset": "mnist"}
    configs = {name: Config(**PRESETS["paper"] | mle | own) for name, own in NETWORKS.items()}
    done = {name: run(config, out=runs, data_dir=data_dir) for name, config in configs.items()}
    data = load_dataset("mnist", data_dir, validation=0)
    dense = bake(done.pop("dense"))
    for name, result in done.items():
        measured = deploy_table(bake(result), data.test_x, data.test_y, dense=dense)
        measured["config"] = result.config.to_dict()
        write_atomically(HERE / f"{name}.json", json.dumps(measured, indent=1).encode())


def conditions(measured: dict[str, Any]) -> str:
    """Return the sentence about the machine and the versions of a measurement."""
    machine, rounds = measured["machine"], measured["setting"]["rounds"]
    versions = ", ".join(f"{name} {version}" for name, version in measured["versions"].items())
    return (
        f"The measurements used {machine['processor']} ({machine['cpus']} CPUs, "
        f"{machine['platform']}) with 1 thread and {rounds} rounds; {versions}; commit "
        f"{measured['commit']}."
    )


def texts() -> dict[str, Callable[[], str]]:
    """Return the functions that make the tables of the page from the JSON files."""
    results = {name: json.loads((HERE / f"{name}.json").read_text()) for name in [*NETWORKS][1:]}
    tables = {name: partial(table, result) for name, result in results.items()}
    return tables | {"conditions": partial(conditions, results["99_of_the_weights"])}


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", default="runs", help="folder of the run folders")
    parser.add_argument("--data-dir", default=None, help="folder of the data files")
    parser.add_argument("--epochs", type=int, default=5, help="epochs of each of three trainings")
    args = parser.parse_args()
    measure(args.runs, args.data_dir, args.epochs)
    PAGE.write_text(fill(PAGE.read_text(), texts()))


if __name__ == "__main__":
    main()
