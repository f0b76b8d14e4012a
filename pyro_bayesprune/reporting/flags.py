"""Quality flags of a report: what speaks against trusting a run. No files, no figures.

Thresholds stand here, each with its reason; a report shows them beside what they judge.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from pyro_bayesprune.diagnostics.thresholds import GOOD_ESS, GOOD_RHAT
from pyro_bayesprune.experiments.loading import Run

Level = Literal["bad", "warning", "note"]
FEW_SEEDS = 3  # fewer give no standard deviation worth the name
SMALL_LOSS, LARGE_LOSS = 0.01, 0.05  # accuracy given up against the dense control
LARGE_ECE = 0.05
WORSE_NLL = 1.2  # of the mean over draws, against that of the MAP
MISSED = 0.005  # counts are rounded within each layer


class Flag(NamedTuple):
    """One thing that speaks against trusting a run."""

    level: Level
    run: str
    text: str
    remedy: str


def finished(runs: Sequence[Run]) -> list[Run]:
    """Return the runs that came to their end."""
    return [run for run in runs if not run.error]


def control(run: Run, runs: Sequence[Run]) -> Run | None:
    """Return the dense run of the same data, network and seed; best of the same objective."""
    dense = [
        other
        for other in finished(runs)
        if other.dense
        and other.pair == run.pair
        and other.settings.get("seed") == run.settings.get("seed")
    ]
    objective = run.settings.get("objective")
    alike = [d for d in dense if d.settings.get("objective") == objective]
    return next(iter(alike + dense), None)


def flags(runs: Sequence[Run]) -> list[Flag]:
    """Return all flags, worst first."""
    found = [flag for run in finished(runs) for check in RUN_CHECKS for flag in check(run)]
    found += [flag for run in finished(runs) for flag in _against_control(run, runs)]
    found += _few_seeds(runs) + [
        Flag("warning", run.title, "The run did not finish.", "Read its error below; run it again.")
        for run in runs
        if run.error
    ]
    return sorted(found, key=lambda flag: ("bad", "warning", "note").index(flag.level))


def _network(run: Run) -> list[Flag]:
    found = []
    collapsed = run.metrics.get("collapsed_layers") or []
    if collapsed:
        text = f"All weights of {', '.join(collapsed)} are zero: the network is constant."
        found.append(Flag("bad", run.title, text, "Prune less, or over all layers together."))
    classes = run.metrics.get("num_classes")
    if run.accuracy is not None and classes and run.accuracy < 1.5 / classes:
        text = f"Test accuracy {run.accuracy:.1%} is close to guessing among {classes} classes."
        found.append(Flag("bad", run.title, text, "Do not use it; prune less or train longer."))
    if run.accuracy is None:
        text = "There are no test data, so nothing is known of its accuracy."
        found.append(Flag("warning", run.title, text, "Give the data set a test part."))
    return found


def _target(run: Run) -> list[Flag]:
    target, reached = run.settings.get("sparsity"), run.metrics.get("achieved_sparsity")
    missed = isinstance(target, float) and reached is not None and reached < target - MISSED
    if not missed:
        return []
    text = f"The gate stopped at a sparsity of {reached:.1%}; the target was {target:.1%}."
    return [Flag("warning", run.title, text, "Lower beta, train longer, or ask for less.")]


def _prior_alone(run: Run) -> list[Flag]:
    if run.history.empty or "prior_decides" not in run.history:
        return []
    epochs = run.history.loc[run.history["prior_decides"].astype(bool), "epoch"]
    if epochs.empty or run.settings.get("gate") == "always":
        return []
    text = f"In epochs {', '.join(map(str, epochs))} the prior alone turned the decision."
    return [Flag("warning", run.title, text, "Repeat with another prior scale and compare.")]


def _chains(run: Run) -> list[Flag]:
    told = run.analysis.get("diagnostics", {}).get("convergence", {})
    found = []
    for name, words in (("log_joint", "the log joint"), ("probability", "predictions")):
        rhat, ess = told.get(f"rhat_{name}"), told.get(f"ess_{name}")
        if rhat is not None and rhat > GOOD_RHAT:
            text = f"Chains disagree on {words}: rhat {rhat:.4f}, above {GOOD_RHAT}."
            found.append(Flag("warning", run.title, text, "Draw longer chains, with more warm-up."))
        elif rhat is not None and ess is not None and ess < GOOD_ESS:
            text = f"Few effective draws of {words}: {ess:.0f}, below {GOOD_ESS}."
            found.append(Flag("note", run.title, text, "Draw longer chains."))
    if told.get("divergences"):
        text = (
            f"{told['divergences']} NUTS transitions diverged: a part of the posterior is missed."
        )
        found.append(Flag("warning", run.title, text, "Draw with more warm-up."))
    return found


def _pareto(run: Run) -> list[Flag]:
    rows = run.analysis.get("diagnostics", {}).get("loo", {}).get("pareto", [])
    share = sum(row["share"] for row in rows[1:])
    if not share:
        return []
    text = f"Pareto k is above 0.7 for {share:.1%} of the examples: LOO is not reliable there."
    return [Flag("warning", run.title, text, "Judge by held-out data instead.")]


def _calibrated(run: Run) -> list[Flag]:
    ece = run.metrics.get("test_ece")
    if ece is None or ece <= LARGE_ECE:
        return []
    text = f"Confidence is off by {ece:.3f} on average (ECE, above {LARGE_ECE})."
    return [Flag("warning", run.title, text, "Average over draws, or rescale the confidence.")]


def _draws_worse(run: Run) -> list[Flag]:
    """An approximation that spoils the predictions of the point it stands around."""
    nll = {row["network"]: row["nll"] for row in run.analysis.get("scores") or []}
    point, mean = nll.get("MAP"), nll.get("mean over draws")
    if point is None or mean is None or mean <= WORSE_NLL * point:
        return []
    text = f"The mean over draws predicts worse than the MAP (NLL {mean:.3f}, {point:.3f}): the "
    text += "approximation of the posterior is poor. Do not trust what rests on its draws: LOO, "
    text += "class frequencies, prior sensitivity."
    remedy = "Use the MAP; or draw again with --draws last_layer_laplace or last_layer_nuts."
    return [Flag("warning", run.title, text, remedy)]


def _drawn_off_mode(run: Run) -> list[Flag]:
    if not run.analysis.get("diagnostics") or run.settings.get("objective") != "mle":
        return []
    text = "It was trained without its prior, so the draws are not centred on a mode."
    return [Flag("note", run.title, text, "Compare with a run whose objective is map.")]


RUN_CHECKS: tuple[Callable[[Run], list[Flag]], ...] = (
    _network, _target, _prior_alone, _chains, _pareto, _calibrated, _draws_worse, _drawn_off_mode,
)  # fmt: skip


def _against_control(run: Run, runs: Sequence[Run]) -> list[Flag]:
    if run.dense or run.accuracy is None:
        return []
    dense = control(run, runs)
    if dense is None or dense.accuracy is None:
        text = "There is no dense control of the same data, network and seed in this report."
        return [Flag("warning", run.title, text, "Run the method unpruned and report both.")]
    lost = dense.accuracy - run.accuracy
    if lost <= SMALL_LOSS:
        return []
    text = f"It is {100 * lost:.2f} points less accurate than its dense control."
    level: Level = "bad" if lost > LARGE_LOSS else "warning"
    return [Flag(level, run.title, text, "Decide whether the compression is worth it.")]


def _few_seeds(runs: Sequence[Run]) -> list[Flag]:
    seeds: dict[tuple, set] = {}
    for run in finished(runs):
        key = (*run.pair, run.metrics.get("method"), run.settings.get("sparsity"))
        seeds.setdefault(key, set()).add(run.settings.get("seed"))
    few = sum(len(found) < FEW_SEEDS for found in seeds.values())
    if not few:
        return []
    text = f"{few} of {len(seeds)} settings have fewer than {FEW_SEEDS} seeds."
    return [Flag("warning", "all runs", text, "Repeat with more seeds before you compare methods.")]
