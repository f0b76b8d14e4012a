"""The verdict of a report: whether the pruned networks can be trusted, and why."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from pyro_bayesprune.experiments.loading import Run
from pyro_bayesprune.reporting.flags import Flag, control, finished


class Verdict(NamedTuple):
    """The report's first words."""

    level: Literal["bad", "warning", "good", "none"]
    headline: str
    reasons: list[str]


def verdict(runs: Sequence[Run], found: Sequence[Flag]) -> Verdict:
    """Return whether the pruned networks can be trusted, and why."""
    done = finished(runs)
    pruned = [run for run in done if not run.dense]
    if not done:
        return Verdict("none", "There is no finished run to judge.", ["See the failed runs below."])
    reasons = [_told(run, runs) for run in pruned[:5]] or ["No run here was to be pruned."]
    if len(pruned) > 5:
        reasons.append(f"… and {len(pruned) - 5} more runs, in the tables below.")
    dense = {run.title for run in done if run.dense and pruned}  # controls are not judged
    levels = [flag.level for flag in found if flag.run not in dense]
    counts = {level: levels.count(level) for level in ("bad", "warning")}
    if counts["bad"]:
        reasons.append(f"{_count(counts['bad'], 'serious flag')} below must be dealt with first.")
        return Verdict("bad", "Do not rely on it yet.", reasons)
    if counts["warning"]:
        others = " (those of dense controls are not counted)" if len(levels) < len(found) else ""
        number = _count(counts["warning"], "reservation")
        reasons.append(f"{number} below, each with a remedy{others}.")
        return Verdict("warning", "Usable, with reservations.", reasons)
    reasons.append("None of the checks below found anything against it.")
    return Verdict("good", "Nothing was found against it.", reasons)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _told(run: Run, runs: Sequence[Run]) -> str:
    words = f"{run.title}: {run.metrics.get('achieved_sparsity', 0):.1%} of the prunable weights"
    words += f" are zero ({run.metrics.get('compression_ratio', 1):.1f} times fewer parameters)"
    if run.accuracy is None:
        return words + "."
    words += f"; test accuracy {run.accuracy:.2%}"
    dense = control(run, runs)
    if dense is not None and dense.accuracy is not None:
        words += f", dense {dense.accuracy:.2%}"
    return words + "."
