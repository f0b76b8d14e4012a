"""Quality flags of a report: reasons not to trust a run."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

from pyro_bayesprune.diagnostics.thresholds import GOOD_ESS, GOOD_K, GOOD_RHAT
from pyro_bayesprune.experiments.loading import Run
from pyro_bayesprune.reporting.html import TEXTS

Level = Literal["bad", "warning", "note"]
Problem = tuple[str, dict[str, Any]]  # name in texts.yaml, and the values of its text
FEW_SEEDS = 3  # a standard deviation over fewer seeds is not meaningful
SMALL_LOSS, LARGE_LOSS = 0.01, 0.05  # of accuracy, or of the RMSE relative to the dense control
LARGE_ECE = 0.05
WRONG_COVERAGE = 0.1  # of intervals of probability 0.9; three standard errors for 80 test targets
WORSE_NLL = 1.2  # ratio of the NLL of the mean over draws to that of the MAP
SENSITIVE = {  # diagnoses of power scaling, see `statistics.power_scaling`
    "prior_data_conflict": "possible prior-data conflict",
    "strong_prior": "prior strong, data weak",
}
# A control has these settings in common with the pruned run.
SAME = ("dataset", "target_column", "likelihood", "network", "hidden", "channels", "seed")
MISSED = 0.005  # tolerance of the sparsity, because counts are rounded within each layer


class Flag(NamedTuple):
    """A reason not to trust a run, and what to do about it."""

    level: Level
    run: str
    text: str
    remedy: str
    name: str = ""
    title: str = ""


def finished(runs: Sequence[Run]) -> list[Run]:
    """Return the finished runs."""
    return [run for run in runs if not run.error]


def repetitions(runs: Sequence[Run], names: Sequence[str] = ("seed",)) -> list[list[Run]]:
    """Return the runs in groups. The runs of a group differ only in these settings."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        key = json.dumps(run.settings | dict.fromkeys(names), sort_keys=True)
        groups.setdefault(key, []).append(run)
    return list(groups.values())


def control(run: Run, runs: Sequence[Run]) -> Run | None:
    """Return the dense run with the same data, network (also its widths) and seed, or None.

    If there are several, it is the one with the same objective and most other settings in common.
    """
    dense = [d for d in finished(runs) if d.dense]
    dense = [d for d in dense if all(d.settings.get(n) == run.settings.get(n) for n in SAME)]
    return min(dense, key=lambda d: _distance(run.settings, d.settings), default=None)


def _distance(first: dict[str, Any], second: dict[str, Any]) -> tuple[bool, int]:
    different = [name for name, value in first.items() if second.get(name) != value]
    return "objective" in different, len(different)


def flags(runs: Sequence[Run]) -> list[Flag]:
    """Return all flags, the most serious first."""
    problems = [("all runs", problem) for problem in _few_seeds(runs)]
    for run in runs:
        if run.error:
            problems.append((run.title, ("unfinished", {})))
        else:
            problems += [(run.title, problem) for check in CHECKS for problem in check(run)]
            problems += [(run.title, problem) for problem in _against_control(run, runs)]
    result = []
    for title, (name, values) in problems:
        level, short, text, remedy = TEXTS["flags"][name]
        result.append(Flag(level, title, text.format(**values), remedy, name, short))
    return sorted(result, key=lambda flag: ("bad", "warning", "note").index(flag.level))


def grouped(flags: Sequence[Flag]) -> list[list[Flag]]:
    """Return the flags in groups of the same problem, in their order."""
    groups: dict[str, list[Flag]] = {}
    for flag in flags:
        groups.setdefault(flag.name, []).append(flag)
    return list(groups.values())


def _network(run: Run) -> Iterator[Problem]:
    classes, score = run.metrics.get("num_classes"), run.test_score
    if collapsed := run.metrics.get("collapsed_layers"):
        yield "collapsed", {"layers": ", ".join(collapsed)}
    if score is None:
        yield "no_test_data", {}
    elif classes and score < _of_guesses(classes):
        yield "guessing", {"accuracy": score, "classes": classes}
    coverage = run.metrics.get("test_coverage_90")
    if coverage is not None and abs(coverage - 0.9) > WRONG_COVERAGE:
        yield "coverage", {"coverage": coverage, "limit": WRONG_COVERAGE}
    if (ece := run.metrics.get("test_ece") or 0.0) > LARGE_ECE:
        yield "calibration", {"ece": ece, "limit": LARGE_ECE}


def _of_guesses(classes: int) -> float:
    """Return the accuracy below which a network is hardly better than guesses among the classes."""
    chance = 1 / classes
    return min(1.5 * chance, chance + 0.06 * (1 - chance))


def _pruning(run: Run) -> Iterator[Problem]:
    target, reached = run.settings.get("sparsity"), run.metrics.get("achieved_sparsity")
    if isinstance(target, float) and reached is not None and reached < target - MISSED:
        yield "target_missed", {"target": target, "reached": reached}
    if "prior_decides" in run.history and run.settings.get("gate") != "always":
        epochs = run.history.loc[run.history["prior_decides"].astype(bool), "epoch"]
        if len(epochs):
            yield "prior_alone", {"epochs": ", ".join(map(str, epochs))}


def _diagnostics(run: Run) -> Iterator[Problem]:
    diagnostics = run.analysis.get("diagnostics", {})
    convergence = diagnostics.get("convergence", {})
    names = {"log_joint": "log joint", "probability": "predictions", "prediction": "predictions"}
    for name, quantity in names.items():
        rhat, ess = convergence.get(f"rhat_{name}"), convergence.get(f"ess_{name}")
        if rhat is not None and rhat > GOOD_RHAT:
            yield "high_rhat", {"quantity": quantity, "rhat": rhat, "limit": GOOD_RHAT}
        elif rhat is not None and ess is not None and ess < GOOD_ESS:
            yield "low_ess", {"quantity": quantity, "ess": ess, "limit": GOOD_ESS}
    if divergences := convergence.get("divergences"):
        yield "divergences", {"number": divergences}
    rows = diagnostics.get("loo", {}).get("pareto", [])
    if share := sum(row["share"] for row in rows[1:]):
        yield "pareto", {"share": share, "limit": GOOD_K}
    diagnoses = [row["diagnosis"] for row in diagnostics.get("power_scaling", [])]
    for name, diagnosis in SENSITIVE.items():
        if number := diagnoses.count(diagnosis):
            yield name, {"number": number, "total": len(diagnoses)}


def _draws(run: Run) -> Iterator[Problem]:
    nll = {row["network"]: row["nll"] for row in run.analysis.get("scores") or []}
    point, mean = nll.get("MAP"), nll.get("mean over draws")
    if point is not None and mean is not None and mean - point > (WORSE_NLL - 1) * abs(point):
        yield "poor_draws", {"mean": mean, "point": point}
    if run.analysis.get("diagnostics") and run.settings.get("objective") == "mle":
        yield "no_mode", {}


CHECKS = (_network, _pruning, _diagnostics, _draws)


def _against_control(run: Run, runs: Sequence[Run]) -> Iterator[Problem]:
    if run.dense or run.test_score is None:
        return
    dense = control(run, runs)
    loss = None if dense is None else loss_against(dense, run)
    if loss is None:
        yield "no_control", {}
    elif loss > SMALL_LOSS:
        much, points = "much_" if loss > LARGE_LOSS else "", {"points": 100 * loss}
        yield much + ("less_accurate" if run.score == "accuracy" else "larger_rmse"), points


def loss_against(dense: Run, run: Run) -> float | None:
    """Return the loss of accuracy against a dense run, or the relative increase of the RMSE."""
    before, after = dense.test_score, run.test_score
    if before is None or after is None:
        return None
    if run.score == "accuracy":
        return before - after
    return after / before - 1 if before else None


def _few_seeds(runs: Sequence[Run]) -> Iterator[Problem]:
    groups = repetitions(finished(runs))
    seeds = [len({run.settings.get("seed") for run in group}) for group in groups]
    if few := sum(number < FEW_SEEDS for number in seeds):
        yield "few_seeds", {"few": few, "number": len(seeds), "limit": FEW_SEEDS}
