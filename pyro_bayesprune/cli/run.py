"""bayesprune run: train and prune one network."""

import sys
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from pyro_bayesprune.cli.common import DEFAULTS, Stopped, add_where, configuration
from pyro_bayesprune.experiments.config import Config
from pyro_bayesprune.pruning.registry import MethodName, PresetName


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--config", type=str, help="YAML or TOML file of settings")
    parser.add_argument("--preset", type=PresetName, help="where settings start: default or paper")
    parser.add_argument("--method", type=MethodName, help="one of the paper's methods")
    parser.add_class_arguments(Config, as_group=False)
    add_where(parser)


def main(given: Namespace) -> int:
    """Run the command; return its exit code."""
    from pyro_bayesprune.experiments.running import run

    values = DEFAULTS | given.as_dict()
    config = configuration(values)
    folder = Path(values["out"]) / config.id
    try:
        result = run(
            config, out=values["out"], data_dir=values.get("data_dir"), device=values["device"]
        )
    except (KeyboardInterrupt, Stopped) as stop:
        told = f"stopped; what is done is in {folder}. Run the same command again to go on."
        print(f"\n{told}", file=sys.stderr)
        return 130 if isinstance(stop, KeyboardInterrupt) else 143
    print(result)
    return 0
