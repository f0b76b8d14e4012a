"""Train the paper's FCN on MNIST and measure ways to deploy it: the tables of this folder.

python reports/deploy/make.py --epochs 3
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyro_bayesprune.benchmarks.deploy import deploy_table
from pyro_bayesprune.benchmarks.deploy_tables import or_dash, table
from pyro_bayesprune.benchmarks.kernels import GAIN
from pyro_bayesprune.models.plain import bake


def report(runs: str | Path, out: str | Path, *, data_dir: str | Path | None, epochs: int) -> None:
    """Train the paper's FCN on MNIST (dense, 99% of weights, 90% of units) and write the tables.

    Args:
        runs: folder of the run folders; what is there already is not trained again.
        out: folder of ``README.md`` and a JSON file for each network.
        data_dir: folder of the data files; see `load_dataset`.
        epochs: of each training.
    """
    from pyro_bayesprune.data.builtin import load_dataset
    from pyro_bayesprune.experiments.config import PRESETS, Config
    from pyro_bayesprune.experiments.running import run

    mle = {"objective": "mle", "gate": "always", "epochs": epochs, "dataset": "mnist"}
    base = PRESETS["paper"] | mle
    networks = {
        "dense": Config(**base | {"sparsity": 0.0}),
        "99% of the weights": Config(**base | {"sparsity": 0.99}),
        "90% of the units": Config(**base | {"sparsity": 0.9, "scope": "unit"}),
    }
    done = {name: run(config, out=runs, data_dir=data_dir) for name, config in networks.items()}
    data = load_dataset("mnist", data_dir, validation=0)
    if data.test_x is None or data.test_y is None:
        raise ValueError("the data have no test part")
    dense = bake(done.pop("dense"))
    parts = []
    for name, result in done.items():
        measured = deploy_table(bake(result), data.test_x, data.test_y, dense=dense)
        measured["config"] = result.config.to_dict()
        file = Path(out) / (name.replace("%", "").replace(" ", "_") + ".json")
        _save(file, json.dumps(measured, indent=1))
        parts.append(f"## {name}\n\n{findings(measured)}\n\n{table(measured)}")
    _save(Path(out) / "README.md", "\n".join([_title(measured, epochs), *parts]))


def _save(path: Path, text: str) -> None:
    from pyro_bayesprune._utils.files import write_atomically

    write_atomically(path, text.encode())


def _title(measured: Mapping[str, Any], epochs: int) -> str:
    config, where, setting = measured["config"], measured["machine"], measured["setting"]
    versions = ", ".join(f"{name} {v}" for name, v in measured["versions"].items())
    return (
        "# What a pruned network really saves\n\n"
        f"`python reports/deploy/make.py --epochs {epochs}`, seed {config['seed']}. "
        f"{config['dataset']}, {config['network']} of hidden layers {tuple(config['hidden'])}, "
        f"trained without a prior for {epochs} epochs and pruned by magnitude at the end of the "
        f"first. Measured on {where['processor']} ({where['cpus']} CPUs, {where['platform']}) with "
        f"{setting['threads']} thread and {setting['rounds']} rounds; {versions}; commit "
        f"{measured['commit']}. The load average was {or_dash(measured['load'], '.1f')}: above the "
        "number of CPUs, milliseconds are those of a busy machine; speed-ups compare turns that "
        "alternate, so the load is much the same for both.\n"
    )


def findings(measured: Mapping[str, Any]) -> str:
    """Return in sentences what the numbers of one network say, good and bad (needs batch 64)."""
    rows = {row["name"]: row for row in measured["rows"]}
    exact = [f for f in measured["formats"] if f["values"] == "float32"]
    narrow = [f for f in measured["formats"] if f["values"] != "float32"]
    smallest = max(exact, key=lambda f: f["times_smaller"])
    differences = [r["difference"] for r in (*rows.values(), *exact) if r["difference"] is not None]
    points = max(abs(f["accuracy"] - f["accuracy_baked"]) for f in narrow) * 100
    batch = measured["setting"]["batches"].index(64)
    at64 = {name: row["speed_up"][batch] for name, row in rows.items() if name != "dense"}
    faster = {name: s for name, s in at64.items() if s[1] >= GAIN}
    best = max(faster, key=lambda name: faster[name][0], default=None)
    gains = "No variant is faster than dense at batch 64: no gain."
    if best:
        none = "; ".join(sorted(set(at64) - set(faster))) or "none"
        gains = (
            f"At batch 64 the fastest is *{best}*, {faster[best][0]:.1f} times dense; *compacted* "
            f"in PyTorch is {at64['compacted'][0]:.1f} times dense. No gain there: {none}."
        )
    return (
        f"Accuracy {rows['baked']['accuracy']:.4f} (dense: {rows['dense']['accuracy']:.4f}). "
        f"The smallest exact file ({smallest['network']}, {smallest['format']}) has "
        f"{smallest['bytes']:,} bytes, {smallest['times_smaller']:.1f} times less than the dense "
        f"float32 one; *baked* as it is, {rows['baked']['times_smaller']:.1f} times. Exact exports "
        f"differ by at most {max(differences):.1e} from the baked network, float16 and int8 by at "
        f"most {points:.2f} points of accuracy. {gains}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", default="runs", help="folder of the run folders")
    parser.add_argument("--out", default="reports/deploy", help="folder of the tables")
    parser.add_argument("--data-dir", default=None, help="folder of the data files")
    parser.add_argument("--epochs", type=int, default=5, help="of each of the three trainings")
    given = parser.parse_args(arguments)
    report(given.runs, given.out, data_dir=given.data_dir, epochs=given.epochs)


if __name__ == "__main__":
    main()
