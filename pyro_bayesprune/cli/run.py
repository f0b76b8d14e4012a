"""bayesprune run: train and prune one network."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from pyro_bayesprune.cli.common import DEFAULTS, add_locations, configuration
from pyro_bayesprune.cli.help import group_by_topic
from pyro_bayesprune.experiments.config import Config, configure
from pyro_bayesprune.pruning.registry import MethodName, PresetName


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--config", type=str, help="YAML or TOML file with settings")
    parser.add_argument("--preset", type=PresetName, help="base settings: default or paper")
    parser.add_argument("--method", type=MethodName, help="one of the paper's methods")
    parser.add_class_arguments(Config, as_group=False)
    parser.set_defaults(configure().to_dict())  # for --help
    add_locations(parser)
    parser.usage = "bayesprune run [option ...]"
    group_by_topic(parser)


def main(args: Namespace) -> None:
    """Train and prune the network, and print a summary."""
    from pyro_bayesprune._utils.process import set_threads
    from pyro_bayesprune.experiments.running import run

    values: dict[str, Any] = DEFAULTS | vars(args)
    config = configuration(values)
    options: dict[str, Any] = {name: values.get(name) for name in ("out", "data_dir", "device")}
    try:
        with set_threads(values.get("threads")):
            print(run(config, **options))
    except KeyboardInterrupt as stop:
        folder = Path(values["out"]) / config.id
        raise type(stop)(
            f"stopped; the finished epochs are saved in {folder}. Run the same command again to "
            "resume the run."
        ) from None
