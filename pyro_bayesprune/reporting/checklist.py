"""The checklist of a report: information that a pruning result must be reported with."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from pyro_bayesprune.experiments.loading import Run
from pyro_bayesprune.reporting.flags import FEW_SEEDS, control, finished, repetitions
from pyro_bayesprune.reporting.html import TEXTS

OPERATING_POINTS, EXTREME = 5, 0.95
SETTINGS = ("criterion", "scope", "restart", "gate", "objective", "sparsity")


class Item(NamedTuple):
    """An item of the checklist. ``met`` is None if the item does not apply."""

    met: bool | None
    text: str
    evidence: str


def checklist(runs: Sequence[Run]) -> list[Item]:
    """Return the checklist of pruning results, with each item met or not.

    It follows Blalock et al. (2020), "What is the state of neural network pruning?", and adds items
    for Bayesian pruning.
    """
    done = finished(runs)
    pruned = [run for run in done if not run.dense]
    counts = _counts(done, pruned)
    values = {name: {str(run.settings.get(name)) for run in pruned} for name in SETTINGS}
    points = [float(s) for s in values["sparsity"] if s.replace(".", "", 1).isdigit()]
    met = {
        "pairs": counts["pairs"] >= 3,
        "operating_points": len(points) >= OPERATING_POINTS and max(points) >= EXTREME,
        "control": counts["controls"] == len(pruned) if pruned else None,
        "seeds": counts["seeds"] >= FEW_SEEDS,
        "paired": len({run.metrics.get("method") for run in done}) > 1 or None,
        "restarts": bool({"shuffle", "reinitialise"} & values["restart"]),
        "small_dense": counts["small_dense"] > 0,
        "gates": any(map(_compares_gates, repetitions(pruned, ("gate", "beta", "per")))),
        "claims": bool(done),
    }
    facts = counts | {name: ", ".join(sorted(values[name])) or "none" for name in SETTINGS}
    facts["names"] = ", ".join(sorted({" ".join(map(str, run.pair)) for run in done}))
    return [
        Item(
            met[name] if name in met else _has_required(item, done, values),
            item["text"].format(few_seeds=FEW_SEEDS, operating_points=OPERATING_POINTS),
            item["evidence"].format(**facts),
        )
        for name, item in TEXTS["checklist"].items()
    ]


def _has_required(item: dict[str, Any], done: Sequence[Run], values: dict[str, set]) -> bool:
    if "metrics" in item:
        return bool(done) and all(name in run.metrics for run in done for name in item["metrics"])
    return all(set(required) <= values[name] for name, required in item["settings"].items())


def _compares_gates(runs: Sequence[Run]) -> bool:
    gates = {run.settings.get("gate") for run in runs}
    return "always" in gates and len(gates) > 1


def _is_small(dense: Run, pruned: Run) -> bool:
    """Return whether a dense network has at most twice the parameters that a larger one keeps."""
    size, before = (run.metrics.get("parameters") or math.inf for run in (dense, pruned))
    ratio = pruned.metrics.get("compression_ratio") or math.inf
    return dense.pair == pruned.pair and size < before and size * ratio <= 2 * before


def _counts(done: Sequence[Run], pruned: Sequence[Run]) -> dict[str, Any]:
    seeds = [len({run.settings.get("seed") for run in group}) for group in repetitions(done)]
    return {
        "pairs": len({run.pair for run in done}),
        "seeds": min(seeds, default=0),
        "pruned": len(pruned),
        "controls": sum(control(run, done) is not None for run in pruned),
        "small_dense": sum(any(_is_small(d, run) for run in pruned) for d in done if d.dense),
    }
