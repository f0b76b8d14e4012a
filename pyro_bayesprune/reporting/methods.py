"""Descriptions of how runs were made: commands, provenance, and sentences for a paper."""

import json
import shlex
from collections.abc import Sequence
from typing import Any

from pyro_bayesprune.experiments.config import PRESETS, Config, configure
from pyro_bayesprune.experiments.loading import Run
from pyro_bayesprune.reporting.html import TEXTS
from pyro_bayesprune.reporting.run_sections import detailed, rule


def command(config: dict[str, Any]) -> str:
    """Return the shortest command line that repeats a run.

    Raises:
        ValueError: for settings that are not a valid configuration.
    """
    values, options = Config.from_dict(config).to_dict(), {}
    for preset in PRESETS:
        base = configure(preset).to_dict()
        options[preset] = [f"--{n} {_argument(v)}" for n, v in values.items() if v != base[n]]
    preset = min(options, key=lambda name: len(options[name]))
    start = [] if preset == "default" else ["--preset", preset]
    return " ".join(["bayesprune run", *start, *options[preset]])


def _argument(value: Any) -> str:  # noqa: ANN401
    is_json = isinstance(value, (list, bool))
    return shlex.quote(json.dumps(value, separators=(",", ":")) if is_json else str(value))


def provenance(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Return the origin of each run, and the command that repeats it."""
    return [
        {
            "run": run.title,
            "id": run.id,
            "command": command(run.settings) if run.is_configured else "a fit in Python",
            "commit": str(run.metrics.get("commit") or "unknown"),
            "finished": str(run.metrics.get("finished", "unknown")),
            "machine": _listed(run.metrics.get("machine") or {}),
            "versions": _listed(run.metrics.get("versions") or {}),
            "settings": _listed(run.settings),
        }
        for run in detailed(runs)
    ]


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def methods_text(runs: Sequence[Run]) -> list[str]:
    """Return sentences about how the runs were made, for the methods section of a paper."""
    return list(dict.fromkeys(_sentences(run) for run in detailed(runs) if run.is_configured))


def _sentences(run: Run) -> str:
    values = {"parameters": 0, "num_train": 0} | run.metrics | run.settings
    values["network"] = str(values["network"]).upper()
    objectives = {"map": "log posterior", "mle": "log likelihood"}
    values["objective"] = objectives.get(values["objective"], values["objective"])
    diagnostics = run.analysis.get("diagnostics")
    names = ["training", "unpruned" if run.dense else "pruning"]
    names += ["restart"] * (values.get("restart", "no") != "no") + ["draws"] * bool(diagnostics)
    values |= {"rule": rule(run), "rounds": values.get("rounds", 1)} | (diagnostics or {})
    return " ".join(TEXTS["methods"][name].format(**values) for name in names)
