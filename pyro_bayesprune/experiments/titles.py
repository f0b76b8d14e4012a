"""Titles of several runs: the settings in which they differ."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pyro_bayesprune.experiments.config import Config
from pyro_bayesprune.experiments.loading import Run
from pyro_bayesprune.experiments.statistics import PRUNING_SETTINGS
from pyro_bayesprune.pruning.registry import METHODS, PRESETS, recommended_gate

NAMES = ("dataset", "network", "method")  # their values need no explanation


def distinguished(runs: Sequence[Run]) -> list[Run]:
    """Return the runs, ordered by their titles: the settings in which they differ.

    Settings that follow from the name of a method, or do not matter for a dense run, are left out.
    No two titles are equal: runs with the same settings are distinguished by their ids or numbers.
    A single run keeps its title.
    """
    if len(runs) < 2:
        return list(runs)
    named = METHODS if any(run.metrics.get("method") in METHODS for run in runs) else {}
    named = named and named | {"default": PRESETS["default"]}
    described = [_described(run, named) for run in runs]
    order = [*NAMES, "sparsity", *Config.__dataclass_fields__, "seed"]
    values: dict[str, set[str]] = {name: set() for name in order}  # the seed comes last
    values["seed"] = values.pop("seed")
    for settings in described:
        for name, value in settings.items():
            values[name].add(json.dumps(_compared(name, value, settings)))
    differing = [name for name, different in values.items() if len(different) > 1]
    titles = [_title(settings, differing) for settings in described]
    titles = _unique(titles, [run.id for run in runs])
    titles = _unique(titles, [f"number {number}" for number in range(1, len(runs) + 1)])
    labelled = [replace(run, label=title) for run, title in zip(runs, titles, strict=True)]
    return sorted(labelled, key=lambda run: _natural(run.label))


def _described(run: Run, named: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the settings that describe a run, with the name of its method if it has one."""
    method, settings = run.metrics.get("method", "run"), dict(run.settings)
    irrelevant = set(PRUNING_SETTINGS) - {"sparsity"} if run.dense else set()
    irrelevant |= set(named.get(method, {})) - {"sparsity"}
    settings = {name: value for name, value in settings.items() if name not in irrelevant}
    return settings | ({"method": method} if named else {})


def _compared(name: str, value: Any, settings: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """Return the value of a setting. That of a gate may follow from the sparsity."""
    levels = settings.get("sparsity", 0.9), settings.get("evaluation", "full")
    return "recommended" if name == "gate" and value == recommended_gate(*levels) else value


def _title(settings: Mapping[str, Any], differing: Sequence[str]) -> str:
    shown = [name for name in differing if name in settings]
    names = " ".join(str(settings[name]) for name in shown if name in NAMES)
    others = [_worded(name, settings[name]) for name in shown if name not in NAMES]
    return ", ".join(filter(None, [names, *others])) or "run"


def _worded(name: str, value: Any) -> str:  # noqa: ANN401
    if name == "sparsity" and value == 0:
        return "dense"
    return f"{name.replace('_', ' ')} {value}"


def _unique(titles: Sequence[str], additions: Sequence[str]) -> list[str]:
    """Return the titles; equal ones are followed by an addition."""
    counts = Counter(titles)
    pairs = zip(titles, additions, strict=True)
    return [f"{title} ({added})" if counts[title] > 1 else title for title, added in pairs]


def _natural(title: str) -> list[tuple[float, str]]:
    """Return a key that sorts titles by their words and numbers."""
    parts = re.split(r"(\d+\.?\d*)", title)
    return [(float(part), "") if part[:1].isdigit() else (-1.0, part) for part in parts]
