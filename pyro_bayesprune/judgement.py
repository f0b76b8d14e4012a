"""What a report says in words: quality flags, a verdict, and a checklist. No files, no figures.

Thresholds stand here, each with its reason; a report shows them beside what they judge.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd

Level = Literal["bad", "warning", "note"]

FEW_SEEDS = 3  # fewer give no standard deviation worth the name
SMALL_LOSS, LARGE_LOSS = 0.01, 0.05  # accuracy given up against the dense control
LARGE_ECE = 0.05
WORSE_NLL = 1.2  # of the mean over draws, against that of the MAP
GOOD_RHAT, GOOD_ESS = 1.01, 400  # Vehtari et al. (2021)
MISSED = 0.005  # counts are rounded within each layer
OPERATING_POINTS, EXTREME = 5, 0.95


@dataclass(frozen=True)
class Run:
    """One run as a report sees it: plain values.

    Args:
        config: its settings.
        result: content of result.json; empty where it did not finish.
        history: a row an epoch.
        folder: where it lies; None for a row of a results table.
        error: why it did not finish; empty where it did.
        analysis: what `analysis.analyse` wrote; empty where it did not run.
    """

    config: dict[str, Any]
    result: dict[str, Any]
    history: pd.DataFrame
    folder: Path | None = None
    error: str = ""
    analysis: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The run's id, or its folder's name."""
        return str(self.result.get("id") or (self.folder.name if self.folder else "?"))

    @property
    def title(self) -> str:
        """What the run is called in tables."""
        c = self.config
        parts = [c.get("dataset", "?"), c.get("network", "?"), self.result.get("method", "run")]
        sparsity = "" if self.dense else f" {c.get('sparsity', '')}"
        return f"{' '.join(map(str, parts))}{sparsity}, seed {c.get('seed', '?')}"

    @property
    def pair(self) -> tuple[Any, Any]:
        """Data set and network."""
        return self.config.get("dataset"), self.config.get("network")

    @property
    def dense(self) -> bool:
        """Whether it was not to be pruned: a control."""
        return not self.config.get("sparsity", 1)

    @property
    def accuracy(self) -> float | None:
        """Test accuracy, None without a test set."""
        return self.result.get("test_accuracy")


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
        and other.config.get("seed") == run.config.get("seed")
    ]
    objective = run.config.get("objective")
    alike = [d for d in dense if d.config.get("objective") == objective]
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
    collapsed = run.result.get("collapsed_layers") or []
    if collapsed:
        text = f"All weights of {', '.join(collapsed)} are zero: the network is constant."
        found.append(Flag("bad", run.title, text, "Prune less, or over all layers together."))
    classes = run.result.get("num_classes")
    if run.accuracy is not None and classes and run.accuracy < 1.5 / classes:
        text = f"Test accuracy {run.accuracy:.1%} is close to guessing among {classes} classes."
        found.append(Flag("bad", run.title, text, "Do not use it; prune less or train longer."))
    if run.accuracy is None:
        text = "There are no test data, so nothing is known of its accuracy."
        found.append(Flag("warning", run.title, text, "Give the data set a test part."))
    return found


def _target(run: Run) -> list[Flag]:
    target, reached = run.config.get("sparsity"), run.result.get("achieved_sparsity")
    missed = isinstance(target, float) and reached is not None and reached < target - MISSED
    if not missed:
        return []
    text = f"The gate stopped at a sparsity of {reached:.1%}; the target was {target:.1%}."
    return [Flag("warning", run.title, text, "Lower beta, train longer, or ask for less.")]


def _prior_alone(run: Run) -> list[Flag]:
    if run.history.empty or "prior_decides" not in run.history:
        return []
    epochs = run.history.loc[run.history["prior_decides"].astype(bool), "epoch"]
    if epochs.empty or run.config.get("gate") == "always":
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
    ece = run.result.get("test_ece")
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
    if not run.analysis.get("diagnostics") or run.config.get("objective") != "mle":
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
        key = (*run.pair, run.result.get("method"), run.config.get("sparsity"))
        seeds.setdefault(key, set()).add(run.config.get("seed"))
    few = sum(len(found) < FEW_SEEDS for found in seeds.values())
    if not few:
        return []
    text = f"{few} of {len(seeds)} settings have fewer than {FEW_SEEDS} seeds."
    return [Flag("warning", "all runs", text, "Repeat with more seeds before you compare methods.")]


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
    words = f"{run.title}: {run.result.get('achieved_sparsity', 0):.1%} of the prunable weights"
    words += f" are zero ({run.result.get('compression_ratio', 1):.1f} times fewer parameters)"
    if run.accuracy is None:
        return words + "."
    words += f"; test accuracy {run.accuracy:.2%}"
    dense = control(run, runs)
    if dense is not None and dense.accuracy is not None:
        words += f", dense {dense.accuracy:.2%}"
    return words + "."


class Item(NamedTuple):
    """One line of the reporting checklist; ``met`` is None where it does not apply."""

    met: bool | None
    text: str
    evidence: str


def checklist(runs: Sequence[Run]) -> list[Item]:
    """Return what a pruning result must be reported with, each item met or not.

    In our words, after Blalock et al. (2020), "What is the state of neural network pruning?", and
    what Bayesian pruning needs besides.
    """
    done = finished(runs)
    pruned = [run for run in done if not run.dense]

    def values(name: str, of: Sequence[Run] = pruned) -> set:
        return {str(run.config.get(name)) for run in of}

    def has(name: str) -> bool:
        return bool(done) and all(name in run.result for run in done)

    methods = {run.result.get("method") for run in done}
    points = {float(s) for s in values("sparsity") if s.replace(".", "", 1).isdigit()}
    pairs = {run.pair for run in done}
    seeds = min((_seeds(run, done) for run in done), default=0)
    controls = [control(run, runs) is not None for run in pruned]
    return [
        Item(has("parameters"), "Architectures and parameter counts are stated.",
             "under provenance and in the table of runs"),
        Item(len(pairs) >= 3, "Three or more pairs of data set and network.", _is(len(pairs))),
        Item(has("compression_ratio"), "Compression is original size over pruned size.",
             "in the table of runs"),
        Item(has("theoretical_speedup"),
             "Theoretical speed-up is multiply-adds before over after, from a public counter.",
             "in the table of runs; it is no measured speed"),
        Item(len(points) >= OPERATING_POINTS and max(points, default=0) >= EXTREME,
             f"{OPERATING_POINTS} or more target sparsities, extreme ones included.",
             _is(len(points))),
        Item(all(controls) if pruned else None,
             "Raw accuracies stand beside those of a dense control.",
             f"{sum(controls)} of {len(pruned)} pruned runs have one"),
        Item(seeds >= FEW_SEEDS, f"Mean and standard deviation over {FEW_SEEDS} or more seeds.",
             f"fewest: {seeds}"),
        Item(len(methods) > 1 or None,
             "All methods of a seed share initial weights, data order and schedule.",
             "by construction: random streams depend on the seed alone"),
        Item("random" in values("criterion"), "Random pruning as a baseline.",
             _of(values("criterion"))),
        Item("shuffled_magnitude" in values("criterion"),
             "Random pruning with the method's own layer proportions.", _of(values("criterion"))),
        Item({"layer", "global"} <= values("scope"), "Pruning by layer and over all layers.",
             _of(values("scope"))),
        Item(bool({"shuffle", "reinitialise"} & values("restart")),
             "Masks shuffled, or retrained from fresh weights, as ablations.",
             _of(values("restart"))),
        Item(_has_small_dense(done), "A small dense network with as many parameters.",
             "no dense run is that small" if not _has_small_dense(done) else "among the runs"),
        Item(has("layer_sparsity") and has("dead_units"),
             "Sparsity and dead units of each layer; collapsed layers are named.",
             "under sparsity by layer"),
        Item(all(has(name) for name in ("test_loss", "test_brier", "test_ece")),
             "NLL, Brier score and ECE stand beside accuracy.", "in the table of runs"),
        Item(has("versions") and has("machine"), "Hardware and versions.", "under provenance"),
        Item("always" in values("gate") and len(values("gate")) > 1,
             "Gated by the Bayes factor against always pruned, all else equal.",
             _of(values("gate"))),
        Item({"map", "mle"} <= values("objective"),
             "A control that has the prior and one that has not.", _of(values("objective"))),
        Item(bool(done), "Claims no wider than what was tested.",
             "this page claims nothing beyond " + ", ".join(sorted(f"{d} {n}" for d, n in pairs))),
    ]  # fmt: skip


def _is(count: int) -> str:
    return f"there {'is' if count == 1 else 'are'} {count}"


def _of(values: set) -> str:
    return "seen: " + (", ".join(sorted(values)) or "none")


def _seeds(run: Run, runs: Sequence[Run]) -> int:
    def key(one: Run) -> dict[str, Any]:
        return {name: value for name, value in one.config.items() if name != "seed"}

    return len({other.config.get("seed") for other in runs if key(other) == key(run)})


def _has_small_dense(runs: Sequence[Run]) -> bool:
    """Whether a dense run has no more than twice the parameters that a pruned one keeps."""
    kept = [
        r.result["parameters"] / r.result["compression_ratio"]
        for r in runs
        if not r.dense and r.result.get("compression_ratio")
    ]
    dense = [run.result.get("parameters", float("inf")) for run in runs if run.dense]
    return bool(kept and dense) and min(dense) <= 2 * max(kept)
