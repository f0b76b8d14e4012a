"""Options and settings files that the commands share."""

import tomllib
from typing import Any

import yaml
from jsonargparse import ArgumentParser, get_loader

from pyro_bayesprune._utils.files import path_of
from pyro_bayesprune.experiments.config import Config, configure

DEFAULTS = {"out": "runs", "device": "cpu"}


class Stopped(KeyboardInterrupt):
    """The process has received SIGTERM."""


def add_locations(parser: ArgumentParser) -> None:
    """Add the options for the run folders, the data files and the device."""
    parser.add_argument("--out", type=str, help="folder that contains the run folders")
    parser.add_argument("--data_dir", type=str, help="folder that contains the data files")
    parser.add_argument("--device", type=str, help="device of the computation: cpu, cuda, cuda:1")
    parser.add_argument("--threads", type=int, help="processor threads of a run")
    parser.set_defaults(DEFAULTS)


def read_settings(path: str) -> dict[str, Any]:
    """Return the settings in a TOML file (if its name ends with .toml) or in a YAML file.

    Raises:
        ValueError: if the file cannot be read, or is not a table of plain values and lists of them.
    """
    try:
        text = path_of(path).read_text(encoding="utf-8")
        settings = tomllib.loads(text) if path.endswith(".toml") else get_loader("yaml")(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"cannot read {path}: {error}") from None
    if not isinstance(settings, dict) or not all(isinstance(name, str) for name in settings):
        raise ValueError(f"{path} must be a table of settings, got {type(settings).__name__}")
    for name, value in settings.items():
        elements = value if isinstance(value, list) else [value]
        if any(isinstance(element, (list, dict)) for element in elements):
            # The value is not printed, because aliases in YAML can make it exponentially long.
            raise ValueError(f"{path}: {name} must be a plain value or a list of plain values")
    return settings


def configuration(args: dict[str, Any]) -> Config:
    """Return the configuration from a settings file and from options, which take precedence.

    Args:
        args: values of the options of ``run``; None stands for an option that is not set.
    """
    settings = read_settings(args["config"]) if args.get("config") else {}
    names = (*Config.__dataclass_fields__, "preset", "method")
    settings |= {name: args[name] for name in names if args.get(name) is not None}
    return configure(**settings)
