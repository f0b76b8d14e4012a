"""The verdict of a report: whether the pruned networks can be trusted, with reasons."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from pyro_bayesprune.experiments.loading import Run
from pyro_bayesprune.reporting import html
from pyro_bayesprune.reporting.flags import Flag, control, finished

TEXTS = html.TEXTS["verdict"]
MAX_RUNS = 5  # runs that the verdict describes


Level = Literal["bad", "warning", "good", "none"]


class Verdict(NamedTuple):
    """The conclusion at the top of a report."""

    level: Level
    headline: str
    reasons: list[str]


def verdict(runs: Sequence[Run], flags: Sequence[Flag]) -> Verdict:
    """Return whether the pruned networks can be trusted, with reasons.

    Args:
        runs: the runs of the report.
        flags: their flags. Those of dense controls do not count if there are pruned runs.
    """
    done = finished(runs)
    pruned = [run for run in done if not run.dense]
    if not done:
        return Verdict("none", TEXTS["none"], [TEXTS["failed"]])
    reasons = [_description(run, runs) for run in pruned[:MAX_RUNS]] or [TEXTS["not_pruned"]]
    if len(pruned) > MAX_RUNS:
        reasons.append(TEXTS["more"].format(number=len(pruned) - MAX_RUNS))
    controls = {run.title for run in done if run.dense and pruned}
    levels: list[str] = [flag.level for flag in flags if flag.run not in controls]
    level: Level = "bad" if "bad" in levels else "warning" if "warning" in levels else "good"
    reason = TEXTS[f"count_{level}"].format(number=levels.count(level))
    if level == "warning" and len(levels) < len(flags):
        reason += TEXTS["controls"]
    return Verdict(level, TEXTS[level], [*reasons, reason])


def _description(run: Run, runs: Sequence[Run]) -> str:
    sparsity = run.metrics.get("achieved_sparsity", 0)
    compression = run.metrics.get("compression_ratio", 1)
    text = TEXTS["pruned"].format(title=run.title, sparsity=sparsity, compression=compression)
    dense = control(run, runs)
    if run.test_score is not None:
        text += TEXTS[run.score].format(score=run.test_score)
        if dense is not None and dense.test_score is not None:
            text += TEXTS[f"{run.score}_of_control"].format(score=dense.test_score)
    return text + "."
