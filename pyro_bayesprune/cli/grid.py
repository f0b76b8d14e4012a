"""bayesprune grid: many runs, on one machine or many."""

import sys
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace

from pyro_bayesprune._utils.progress import GridView
from pyro_bayesprune.cli.common import DEFAULTS, UserError, add_where, read_settings
from pyro_bayesprune.experiments.config import Config
from pyro_bayesprune.pruning.registry import PresetName

AXES = {
    "datasets": "dataset",
    "networks": "network",
    "methods": "method",
    "sparsities": "sparsity",
    "seeds": "seed",
}


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--preset", type=PresetName, default="paper", help="where settings start")
    for axis in AXES:
        help_ = f"comma-separated values (default with --preset paper: the paper's {axis})"
        parser.add_argument(f"--{axis}", type=str, help=help_)
    vary = "further axes, setting=value,…; without --methods the settings alone say the method"
    parser.add_argument("--vary", type=str, nargs="+", help=vary)
    parser.add_argument("--epochs", type=int, help="passes over the training data")
    parser.add_argument("--config", type=str, help="YAML or TOML file of further settings")
    parser.add_argument("--store", type=str, help="folder of results.csv: known runs are skipped")
    parser.add_argument("--jobs", type=int, help="runs at a time (default: one)")
    parser.add_argument("--engine", choices=("loky", "dask"), help="processes here, or a cluster")
    parser.add_argument("--address", type=str, help="of the Dask scheduler, tcp://host:port")
    parser.add_argument(
        "--controls", action="store_true", help="the controls of each configuration in its place"
    )
    parser.add_argument("--verify", type=int, help="run this many finished runs again; compare")
    add_where(parser)


def _axis(name: str, text: str) -> list[Any]:
    convert = {"seeds": int, "sparsities": float}.get(name, str)
    try:
        return [convert(part.strip()) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--{name} must be comma-separated numbers, got {text!r}") from None


def _varied(texts: list[str]) -> dict[str, tuple[Any, ...]]:
    """Return the axes of --vary; values are YAML, so that [512, 512] is one of them."""
    axes = {}
    for text in texts:
        name, _, listed = text.partition("=")
        try:
            axes[name.strip()] = tuple(yaml.safe_load(f"[{listed}]"))
        except yaml.YAMLError:
            axes[name.strip()] = ()
        if not axes[name.strip()]:
            raise UserError(f"--vary must be setting=value,value…, got {text!r}")
    return axes


def _grid_configurations(values: dict[str, Any]) -> list[Config]:
    """Return the configurations that a grid's options name."""
    from pyro_bayesprune.experiments.designs import PAPER, controls, product

    preset = values.get("preset") or "paper"
    axes = dict(PAPER) if preset == "paper" else {}
    for plural, field in AXES.items():
        if values.get(plural):
            axes[field] = tuple(_axis(plural, values[plural]))
    if values.get("vary"):
        axes |= _varied(values["vary"])
        axes = {field: v for field, v in axes.items() if field != "method" or values.get("methods")}
    settings = read_settings(values["config"]) if values.get("config") else {}
    settings |= {"epochs": values["epochs"]} if values.get("epochs") else {}
    configs = product(preset, **axes, **{name: (value,) for name, value in settings.items()})
    if values.get("controls"):
        configs = [control for config in configs for control in controls(config).values()]
    return configs


def _verify(configs: list[Config], values: dict[str, Any]) -> int:
    from pyro_bayesprune.experiments.grids import verify

    same = verify(configs, values["verify"], out=values["out"], data_dir=values.get("data_dir"))
    for run_id, fine in same.items():
        print(f"{run_id} {'the same again' if fine else 'DIFFERS'}")
    return 0 if same and all(same.values()) else 1


def main(given: Namespace) -> int:
    """Run the command; return its exit code."""
    from pyro_bayesprune.experiments.grids import Outcome, grid
    from pyro_bayesprune.experiments.results import known_ids, record

    values = DEFAULTS | given.as_dict()
    configs = _grid_configurations(values)
    if values.get("verify"):
        return _verify(configs, values)
    out, store = Path(values["out"]), values.get("store")
    view = GridView(len(configs), values.get("jobs") or 1)

    def watch(outcome: Outcome) -> None:
        view.add(outcome.config.title, outcome.status, outcome.seconds)
        if store and outcome.status == "done":
            record(store, out / outcome.config.id)

    outcomes = grid(
        configs,
        out=out,
        data_dir=values.get("data_dir"),
        device=values["device"],
        jobs=values.get("jobs") or 1,
        engine=values.get("engine") or "loky",
        address=values.get("address"),
        known=known_ids(store) if store else (),
        watch=watch,
    )
    if all(outcome.status == "skipped" for outcome in outcomes):
        print(f"nothing left to run: all {len(outcomes)} are done", file=sys.stderr)
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    for outcome in failed:
        last = outcome.error.strip().splitlines()[-1]
        print(f"failed: {out / outcome.config.id}: {last}", file=sys.stderr)
    return 1 if failed else 0
