"""Train the paper's FCN on MNIST and measure the ways to deploy it.

    python reports/deploy/make.py --epochs 3

writes README.md and a JSON file for each of two pruned networks into this folder.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyro_bayesprune._utils.files import write_atomically
from pyro_bayesprune.benchmarks.deploy import deploy_table
from pyro_bayesprune.benchmarks.deploy_tables import or_dash, table
from pyro_bayesprune.benchmarks.kernels import GAIN
from pyro_bayesprune.data.builtin import load_dataset
from pyro_bayesprune.experiments.config import PRESETS, Config
from pyro_bayesprune.experiments.running import run
from pyro_bayesprune.models.plain import bake

NETWORKS = {
    "dense": {"sparsity": 0.0},
    "99% of the weights": {"sparsity": 0.99},
    "90% of the units": {"sparsity": 0.9, "scope": "unit"},
}


def report(runs: str | Path, out: str | Path, *, data_dir: str | Path | None, epochs: int) -> None:
    """Train the networks and write the tables. Finished runs are not repeated."""
    mle = {"objective": "mle", "gate": "always", "epochs": epochs, "dataset": "mnist"}
    configs = {name: Config(**PRESETS["paper"] | mle | own) for name, own in NETWORKS.items()}
    done = {name: run(config, out=runs, data_dir=data_dir) for name, config in configs.items()}
    data = load_dataset("mnist", data_dir, validation=0)
    dense = bake(done.pop("dense"))
    sections = []
    for name, result in done.items():
        measured = deploy_table(bake(result), data.test_x, data.test_y, dense=dense)
        measured["config"] = result.config.to_dict()
        file = Path(out) / (name.replace("%", "").replace(" ", "_") + ".json")
        write_atomically(file, json.dumps(measured, indent=1).encode())
        sections.append(f"## {name} pruned\n\n{findings(measured)}\n\n{table(measured)}")
    page = "\n".join([_introduction(measured, epochs), *sections])
    write_atomically(Path(out) / "README.md", page.encode())


def _introduction(measured: Mapping[str, Any], epochs: int) -> str:
    config, machine, setting = measured["config"], measured["machine"], measured["setting"]
    versions = ", ".join(f"{name} {v}" for name, v in measured["versions"].items())
    return (
        "# Savings of a pruned network in practice\n\n"
        f"`python reports/deploy/make.py --epochs {epochs}` wrote this page.\n\n"
        f"The network is the {config['network']} with hidden layers {tuple(config['hidden'])}, "
        f"trained on {config['dataset']} without a prior for {epochs} epochs (seed "
        f"{config['seed']}). It is pruned by magnitude at the end of the first epoch. The "
        f"measurements used {machine['processor']} ({machine['cpus']} CPUs, "
        f"{machine['platform']}) with 1 thread and {setting['rounds']} rounds; "
        f"{versions}; commit {measured['commit']}. The load average was "
        f"{or_dash(measured['load'], '.1f')}. If it exceeds the number of CPUs, other processes "
        "increase the milliseconds. The speed-ups compare alternating measurements, so the load "
        "affects both sides almost equally.\n"
    )


def findings(measured: Mapping[str, Any]) -> str:
    """Return the main results for one network in sentences (requires batch size 64)."""
    rows = {row["name"]: row for row in measured["rows"]}
    exact = [f for f in measured["formats"] if f["values"] == "float32"]
    float16 = [f for f in measured["formats"] if f["values"] == "float16"]
    smallest = max(exact, key=lambda f: f["times_smaller"])
    differences = [r["difference"] for r in (*rows.values(), *exact) if r["difference"] is not None]
    baked, dense = rows["baked"], rows["dense"]
    points = max(abs(f["accuracy"] - baked["accuracy"]) for f in float16) * 100
    return (
        f"Accuracy: {baked['accuracy']:.4f} (dense: {dense['accuracy']:.4f}). "
        f"The smallest exact file ({smallest['network']}, {smallest['format']}) has "
        f"{smallest['bytes']:,} bytes and is {smallest['times_smaller']:.1f} times smaller than "
        f"the dense float32 file. The file of *baked* is {baked['times_smaller']:.1f} times "
        f"smaller. The outputs of exact exports differ by at most {max(differences):.1e} from the "
        f"baked network. With float16 the accuracy changes by at most {points:.2f} points. "
        f"{_speed_findings(measured)}"
    )


def _speed_findings(measured: Mapping[str, Any]) -> str:
    batch = measured["setting"]["batches"].index(64)
    speeds = {r["name"]: r["speed_up"][batch] for r in measured["rows"] if r["name"] != "dense"}
    faster = {name: speed for name, speed in speeds.items() if speed[1] >= GAIN}
    if not faster:
        return "At batch size 64, no variant is faster than the dense network."
    best = max(faster, key=lambda name: faster[name][0])
    others = "; ".join(sorted(set(speeds) - set(faster))) or "none"
    return (
        f"At batch size 64, the fastest variant is *{best}*: {faster[best][0]:.1f} times as fast "
        f"as the dense network. For *compacted* in PyTorch, the speed is "
        f"{speeds['compacted'][0]:.1f} times that of the dense network. Variants without a gain: "
        f"{others}."
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", default="runs", help="folder of the run folders")
    parser.add_argument("--out", default="reports/deploy", help="folder of the tables")
    parser.add_argument("--data-dir", default=None, help="folder of the data files")
    parser.add_argument("--epochs", type=int, default=5, help="epochs of each of three trainings")
    args = parser.parse_args(argv)
    report(args.runs, args.out, data_dir=args.data_dir, epochs=args.epochs)


if __name__ == "__main__":
    main()
