"""The verdict of a report: whether the pruned networks can be trusted, in one sentence."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from pyro_bayesprune.experiments.loading import Run
from pyro_bayesprune.reporting import html
from pyro_bayesprune.reporting.flags import Flag, control, finished, loss_against

TEXTS = html.TEXTS["verdict"]
Level = Literal["bad", "warning", "good", "none"]


class Verdict(NamedTuple):
    """The conclusion at the top of a report."""

    level: Level
    headline: str


def verdict(runs: Sequence[Run], flags: Sequence[Flag]) -> Verdict:
    """Return whether the pruned networks can be trusted.

    Args:
        runs: the runs of the report.
        flags: their flags. Those of dense controls do not count if there are pruned runs.
    """
    done = finished(runs)
    pruned = [run for run in done if not run.dense]
    if not done:
        return Verdict("none", TEXTS["none"])
    counted = counting(runs, flags)
    levels = [flag.level for flag in counted]
    level: Level = "bad" if "bad" in levels else "warning" if "warning" in levels else "good"
    number = len({flag.name for flag in counted if flag.level == level})
    word = TEXTS[level].format(number=number, problems="problem" if number == 1 else "problems")
    return Verdict(level, f"{word}: {_facts(pruned, runs) if pruned else TEXTS['not_pruned']}.")


def counting(runs: Sequence[Run], flags: Sequence[Flag]) -> list[Flag]:
    """Return the flags that count: without those of dense controls, if there are pruned runs."""
    pruned = any(not run.dense for run in finished(runs))
    controls = {run.title for run in finished(runs) if run.dense and pruned}
    return [flag for flag in flags if flag.run not in controls]


def _facts(pruned: Sequence[Run], runs: Sequence[Run]) -> str:
    """Return the sparsity and the loss against the dense controls."""
    zeros = html.span([run.metrics.get("achieved_sparsity") for run in pruned], ".1%")
    text = TEXTS["zeros"].format(zeros=zeros)
    if all(run.test_score is None for run in pruned):
        return text + TEXTS["not_tested"]
    pairs = [(run, control(run, runs)) for run in pruned]
    losses = [loss_against(dense, run) for run, dense in pairs if dense is not None]
    known = [loss for loss in losses if loss is not None]
    if len({run.score for run in pruned}) > 1 or not known:
        return text + TEXTS["no_control"]
    name = "worse" if max(known) > 0 else "not_worse"
    values = {"points": 100 * max(known), "up_to": "up to " if len(known) > 1 else ""}
    text += TEXTS[f"{name}_{pruned[0].score}"].format(**values)
    return text + (TEXTS["some_controls"] if len(known) < len(pruned) else "")
