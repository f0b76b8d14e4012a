"""What the commands share: errors, options, and settings from files."""

import re
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from pyro_bayesprune.experiments.config import Config, configure

DEFAULTS = {"out": "runs", "device": "cpu"}


class UserError(Exception):
    """A mistake of the user: one line, exit code 2."""


class Stopped(BaseException):
    """SIGTERM arrived (a BaseException, like KeyboardInterrupt)."""


def add_where(parser: ArgumentParser) -> None:
    """Add the options that say where runs, data and computation are."""
    parser.add_argument("--out", type=str, help="folder of the run folders")
    parser.add_argument("--data_dir", type=str, help="folder of the data files")
    parser.add_argument("--device", type=str, help="cpu, cuda or mps")
    parser.set_defaults(DEFAULTS)


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number, as in YAML 1.2, and not a text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    [*"-+.0123456789"],
)


def read_settings(path: str) -> dict[str, Any]:
    """Return the settings of a YAML or TOML file, by its ending.

    Raises:
        UserError: if the file cannot be read or is not a table of settings.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        values = tomllib.loads(text) if path.endswith(".toml") else yaml.load(text, _Loader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise UserError(f"{path} must be a table of settings, got {type(values).__name__}")
    for name, value in values.items():  # to show nested ones may take for ever (YAML's aliases)
        if any(
            isinstance(v, (list, dict)) for v in (value if isinstance(value, list) else [value])
        ):
            raise UserError(f"{path}: {name} must be a plain value or a list of them")
    return values


def configuration(given: dict[str, Any]) -> Config:
    """Return the configuration of what was given: a file's settings, overridden by options."""
    from_file = read_settings(given["config"]) if given.get("config") else {}
    names = {field.name for field in fields(Config)}
    settings = from_file | {n: v for n, v in given.items() if n in names and v is not None}
    preset = given.get("preset") or settings.pop("preset", "default")
    method = given.get("method") or settings.pop("method", None)
    settings.pop("preset", None), settings.pop("method", None)
    return configure(preset, method, **settings)
