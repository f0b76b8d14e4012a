"""bayesprune grid: run many configurations on one or more machines."""

import sys
import warnings
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace, get_loader

from pyro_bayesprune._utils.files import path_of
from pyro_bayesprune._utils.progress import GridView
from pyro_bayesprune.cli.common import add_locations, read_settings
from pyro_bayesprune.experiments.config import Config
from pyro_bayesprune.pruning.registry import PresetName

AXES = {  # options and the settings that they vary
    "datasets": "dataset", "networks": "network", "methods": "method", "sparsities": "sparsity",
    "seeds": "seed",
}  # fmt: skip


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--preset", type=PresetName, default="paper", help="base settings")
    for option in AXES:
        text = f"comma-separated values (default with --preset paper: the paper's {option})"
        parser.add_argument(f"--{option}", type=str, help=text)
    text = "further axes, setting=value,…; without --methods, the settings determine the method"
    parser.add_argument("--vary", type=str, nargs="+", help=text)
    parser.add_argument("--epochs", type=int, help="passes over the training data")
    text = "YAML or TOML file with further settings; other options override it"
    parser.add_argument("--config", type=str, help=text)
    text = "folder of a results.csv; its runs are skipped, and new runs are added to it"
    parser.add_argument("--store", type=str, help=text)
    parser.add_argument("--jobs", type=int, default=1, help="number of parallel runs")
    text = "local processes (loky) or a cluster (dask)"
    parser.add_argument("--engine", choices=("loky", "dask"), default="loky", help=text)
    parser.add_argument("--address", type=str, help="Dask scheduler, tcp://host:port")
    text = "run the control experiments of each configuration instead of the configuration"
    parser.add_argument("--controls", action="store_true", help=text)
    text = "repeat this number of finished runs and compare the results"
    parser.add_argument("--verify", type=int, help=text)
    add_locations(parser)


def _values(text: str, message: str) -> tuple[Any, ...]:
    """Return comma-separated YAML values. [512, 512] is a single value."""
    try:
        values = get_loader("yaml")(f"[{text}]")
    except yaml.YAMLError:
        values = []
    if not values:
        raise ValueError(message)
    return tuple(values)


def _configurations(args: Namespace) -> list[Config]:
    """Return the configurations of the grid."""
    from pyro_bayesprune.experiments.designs import PAPER, controls, product

    settings = read_settings(args.config) if args.config else {}
    settings |= {} if args.epochs is None else {"epochs": args.epochs}
    preset = settings.pop("preset", args.preset)
    axes: dict[str, tuple] = dict(PAPER) if preset == "paper" else {}
    if args.vary:
        axes.pop("method", None)
    axes |= {name: (value,) for name, value in settings.items()}
    for option, setting in AXES.items():
        if (text := getattr(args, option)) is not None:
            axes[setting] = _values(text, f"--{option} must be value,value…, got {text!r}")
    for text in args.vary or []:
        setting, _, values = text.partition("=")
        message = f"--vary must be setting=value,value…, got {text!r}"
        axes[setting.strip()] = _values(values, message)
    if "preset" in axes:
        raise ValueError("--vary cannot vary the preset: run a grid for each preset")
    configs = product(preset, **axes)
    if args.controls:
        runs = [control for config in configs for control in controls(config).values()]
        configs = list({control.id: control for control in runs}.values())
    return configs


def _verify(configs: list[Config], args: Namespace) -> int:
    from pyro_bayesprune.experiments.grids import verify

    options = {name: getattr(args, name) for name in ("out", "data_dir", "device")}
    results = verify(configs, args.verify, **options)
    for run_id, identical in results.items():
        print(f"{run_id} {'is identical' if identical else 'DIFFERS'}")
    return 0 if results and all(results.values()) else 1


def main(args: Namespace) -> int:
    """Run the grid or verify it. Return 1 if a run failed or differs, else 0."""
    from pyro_bayesprune.experiments import folders
    from pyro_bayesprune.experiments.errors import RunError
    from pyro_bayesprune.experiments.grids import Outcome, grid
    from pyro_bayesprune.experiments.results import known_ids, record

    configs = _configurations(args)
    if args.verify is not None:
        return _verify(configs, args)
    out, view = path_of(args.out), GridView(len(configs), args.jobs)

    def watch(outcome: Outcome) -> None:
        view.add(outcome.config.title, outcome.status, outcome.seconds)
        is_finished = outcome.status in ("done", "skipped")
        if args.store and is_finished and outcome.config.id not in known:
            try:
                record(args.store, out / outcome.config.id)
            except (RunError, OSError) as error:
                warnings.warn(f"a run is not added to {args.store}: {error}", stacklevel=2)

    names = ("data_dir", "device", "jobs", "threads", "engine", "address")
    options = {name: getattr(args, name) for name in names}
    known = known_ids(args.store) if args.store else ()
    finished = {c.id for c in configs if c.id in known or folders.is_finished(out / c.id)}
    view.start([config.title for config in configs if config.id not in finished])
    outcomes = grid(configs, out=out, known=known, watch=watch, **options)
    if all(outcome.status == "skipped" for outcome in outcomes):
        print(f"nothing to run: all {len(outcomes)} runs are finished", file=sys.stderr)
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    for outcome in failed:
        last_line = outcome.error.strip().splitlines()[-1]
        print(f"failed: {out / outcome.config.id}: {last_line}", file=sys.stderr)
    return 1 if failed else 0
