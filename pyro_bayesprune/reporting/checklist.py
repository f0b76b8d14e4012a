"""The checklist of a report: what a pruning result must be reported with."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from pyro_bayesprune.experiments.loading import Run
from pyro_bayesprune.reporting.flags import FEW_SEEDS, control, finished

OPERATING_POINTS, EXTREME = 5, 0.95


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
        return {str(run.settings.get(name)) for run in of}

    def has(name: str) -> bool:
        return bool(done) and all(name in run.metrics for run in done)

    methods = {run.metrics.get("method") for run in done}
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
        return {name: value for name, value in one.settings.items() if name != "seed"}

    return len({other.settings.get("seed") for other in runs if key(other) == key(run)})


def _has_small_dense(runs: Sequence[Run]) -> bool:
    """Whether a dense run has no more than twice the parameters that a pruned one keeps."""
    kept = [
        r.metrics["parameters"] / r.metrics["compression_ratio"]
        for r in runs
        if not r.dense and r.metrics.get("compression_ratio")
    ]
    dense = [run.metrics.get("parameters", float("inf")) for run in runs if run.dense]
    return bool(kept and dense) and min(dense) <= 2 * max(kept)
