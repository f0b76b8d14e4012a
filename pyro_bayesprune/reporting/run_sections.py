"""The report's sections about runs: results, curves, decisions, layers, compression."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd

from pyro_bayesprune import plots
from pyro_bayesprune.experiments.errors import RunError
from pyro_bayesprune.experiments.loading import Run
from pyro_bayesprune.reporting.flags import finished, repetitions
from pyro_bayesprune.reporting.html import (
    TEXTS,
    Content,
    Panel,
    Picture,
    Table,
    of,
    panel,
    picture,
    span,
    table_of,
)

SAME = 1.02  # ratio of compressions that count as equal
DETAILED = 12  # runs with tables of their own; the other tables contain all runs
METRICS = {  # by the score of a run
    "accuracy": ["test_accuracy", "test_loss", "test_brier", "test_ece"],
    "rmse": ["test_rmse", "test_loss", "test_coverage_50", "test_coverage_90"],
}
SIZES = ["parameters", "compression_ratio", "theoretical_speedup", "epochs", "seconds"]
DECISIONS = [
    "epoch", "decision", "log_bf", "log_likelihood_ratio", "log_prior_ratio", "log_occam_ratio",
    "log_threshold", "recorded", "tries", "prior_decides", "sparsity",
]  # fmt: skip


def detailed(runs: Sequence[Run]) -> list[Run]:
    """Return the finished runs that are described in detail."""
    return finished(runs)[:DETAILED]


def values_of(runs: Sequence[Run], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the title of each run and the named settings and metrics."""
    values = [(run.title, run.settings | run.metrics) for run in runs]
    return [{"run": title} | {name: of.get(name) for name in names} for title, of in values]


def scores_of(runs: Sequence[Run]) -> list[str]:
    """Return the names of the runs' test scores."""
    return list(dict.fromkeys(f"test_{run.score}" for run in runs))


def results_panel(runs: Sequence[Run]) -> Panel:
    """Return the section with the metrics of every run, and their means over seeds."""
    done = finished(runs)
    if not done:
        return panel("results", [])
    every = table_of(pd.DataFrame(values_of(done, _measures(done))), "All runs")
    groups = repetitions(done)
    if len(groups) == len(done):
        return panel("results", [every])
    metrics = [name for name in _measures(done) if name not in SIZES]
    means = [
        {"setting": _without_seed(group[0]), "seeds": len(group)}
        | {name: _mean_and_sd(group, name) for name in metrics}
        for group in groups
    ]
    table = table_of(pd.DataFrame(means), "Means over seeds, ± one sample standard deviation")
    return panel("results", [table, replace(every, folded=True)])


def measures(run: Run) -> Table:
    """Return a folded table of all metrics of a run."""
    [values] = values_of([run], _measures([run]))
    rows = [(TEXTS["headers"].get(n, n), v) for n, v in values.items() if n != "run"]
    return table_of(pd.DataFrame(rows, columns=["measure", "value"]), "All measures", folded=True)


def _measures(runs: Sequence[Run]) -> list[str]:
    scores = {run.score for run in runs}
    metrics = [name for score, names in METRICS.items() if score in scores for name in names]
    return [*dict.fromkeys(metrics), "achieved_sparsity", *SIZES]


def _without_seed(run: Run) -> str:
    return run.title.rpartition(", seed")[0] or run.title


def _mean_and_sd(runs: Sequence[Run], name: str) -> str | None:
    values = pd.Series([run.metrics.get(name) for run in runs], dtype=float)
    if values.isna().any():
        return None
    return f"{values.mean():.4f}" + (f" ± {values.std():.4f}" if len(values) > 1 else "")


def curves_panel(runs: Sequence[Run]) -> Panel:
    """Return the section with the learning curves of all runs in one figure."""
    done = [run for run in finished(runs) if len(run.history)]
    if not done:
        return panel("curves", [])
    columns = ["epoch", "train_loss", "validation_loss", "test_loss", "log_bf", "sparsity"]
    histories = [run.history.assign(run=run.title) for run in done]
    frame = pd.concat(map(_with_threshold, done, histories), ignore_index=True)
    table = frame.reindex(columns=(["run"] if len(done) > 1 else []) + columns)
    last = [history["train_loss"].iloc[-1] for history in histories]
    values = {"title": f"{len(done)} runs" if len(done) > 1 else done[0].title}
    values |= {
        "last": span(last, ".3g"),
        "sparsity": span([h["sparsity"].iloc[-1] for h in histories], ".1%"),
    }
    return panel(
        "curves", [picture(plots.learning_curves(frame), "learning_curves", table, **values)]
    )


def _with_threshold(run: Run, history: pd.DataFrame) -> pd.DataFrame:
    """Return a history without the threshold if the gate ignores it."""
    ignored = run.dense or run.settings.get("gate") == "always"
    return history.drop(columns="log_threshold", errors="ignore") if ignored else history


def decisions_panel(runs: Sequence[Run]) -> Panel:
    """Return the section with every pruning decision."""
    pruned = [run for run in finished(runs) if not run.dense and "decision" in run.history]
    content = [table_of(pd.DataFrame(map(_counts, pruned)), "Decisions of each run")]
    for run in pruned[:DETAILED]:
        content += _decision_tables(run, folded=len(pruned) > 1)
    kinds = dict.fromkeys(kind for run in pruned for kind in _kinds(run))
    note = " ".join(TEXTS["kinds"].get(kind, "") for kind in kinds)
    return panel("decisions", content[len(pruned) == 1 :] if pruned else [], note)


def _kinds(run: Run) -> list[str]:
    """Return the kinds of the Bayes factors of a run: joint or laplace."""
    return list(run.history["kind"].unique()) if "kind" in run.history else ["joint"]


def _counts(run: Run) -> dict[str, Any]:
    number = run.history["decision"].value_counts()
    counts = {name: int(number.get(name, 0)) for name in ("pruned", "refused", "unchanged")}
    alone = {"prior_decided": run.metrics.get("prior_decided")}
    settings = {name: run.settings.get(name) for name in ("gate", "beta", "per")}
    return {"run": run.title} | counts | alone | settings


def rule(run: Run) -> str:
    """Return the gate of a run, with its threshold if it has one."""
    gate, beta, per = (run.settings.get(name) for name in ("gate", "beta", "per"))
    return f"gate {gate}" + ("" if gate in ("always", "retain") else f", beta {beta} per {per}")


def _decision_tables(run: Run, *, folded: bool) -> list[Table]:
    """Return a table of the epochs with a step, and a folded one of all if there are others."""
    caption = f"Decisions{of(run)}" + (f", {rule(run)}" if "gate" in run.settings else "")
    history = _with_threshold(run, run.history)
    frame = history[[name for name in DECISIONS if name in history]]
    if "log_occam_ratio" in frame and not frame["log_occam_ratio"].any():
        frame = frame.drop(columns="log_occam_ratio")
    steps = frame[frame["decision"] != "unchanged"]
    every = table_of(frame, f"{caption}: all {len(frame)} epochs", folded=True)
    if folded or steps.empty:
        return [every]
    first = table_of(steps, f"{caption}: epochs with a step")
    return [first] if len(steps) == len(frame) else [first, every]


def layers_panel(runs: Sequence[Run]) -> Panel:
    """Return the section with the surviving weights of each layer: of one run, or as a table."""
    pruned = [run for run in finished(runs) if not run.dense and _kept(run)]
    if len(pruned) == 1:
        return panel("layers", _layers_of(pruned[0]))
    rows = [{"run": run.title} | _kept(run) for run in pruned]
    table = [table_of(pd.DataFrame(rows), "Share of surviving weights")] if rows else []
    return panel("layers", table)


def _kept(run: Run) -> dict[str, float]:
    return {n: 1 - float(s) for n, s in (run.metrics.get("layer_sparsity") or {}).items()}


def _layers_of(run: Run) -> Content:
    kept, dead = _kept(run), run.metrics.get("dead_units") or {}
    rows = [(name, share, dead.get(name)) for name, share in kept.items()]
    frame = pd.DataFrame(rows, columns=["layer", "kept", "dead units"])
    pictures = _weights_of(run)
    if plots.is_uniform(list(kept.values())):
        return [*pictures, table_of(frame, TEXTS["captions"]["uniform"], folded=True)]
    layer, share = min(kept.items(), key=lambda item: item[1])
    values = {"title": run.title, "layer": layer, "share": share}
    figure = plots.sparsity_by_layer(frame)
    return [*pictures[:1], picture(figure, "sparsity_by_layer", frame, **values), *pictures[1:]]


def _weights_of(run: Run) -> list[Picture]:
    """Return the figures of the surviving weights, as far as the run has them."""
    shape = run.metrics.get("shape") or ()
    result = []
    with suppress(RunError):  # no weights in the folder
        # The layers in the order of the network: that of a file is another one.
        masks = {name: run.masks[name] for name in _kept(run)}
        for name, draw in (
            ("weights_against_prior", partial(plots.weights_against_prior, run, masks)),
            ("survivors", partial(plots.survivors, masks, shape if len(shape) == 3 else None)),
        ):
            with suppress(ValueError):  # no matrices, or no images for the first layer
                result.append(picture(draw(), name, title=run.title))
    return result


def compression_panel(runs: Sequence[Run]) -> Panel:
    """Return the section with the score against compression of further data sets or networks."""
    return panel("compression", compression_pictures(runs)[1:])


def compression_pictures(runs: Sequence[Run]) -> list[Picture]:
    """Return a figure of the test score against compression for each data set and network."""
    done = [run for run in finished(runs) if run.test_score is not None]
    pairs: dict[Any, list[Run]] = {}
    for run in done:
        pairs.setdefault((run.pair, run.score), []).append(run)
    return [_compression(chosen) for chosen in pairs.values() if _vary(chosen)]


def _vary(runs: Sequence[Run]) -> bool:
    """Return whether the compressions of runs differ, so that a figure shows something."""
    ratios = [run.metrics.get("compression_ratio") or 1.0 for run in runs]
    return max(ratios) > SAME * min(ratios)


def _compression(runs: Sequence[Run]) -> Picture:
    score, title = runs[0].score, " ".join(map(str, runs[0].pair))
    name = f"test_{score}"
    columns = ["compression_ratio", name, "sparsity", "seed"]
    frame = pd.DataFrame(values_of(runs, columns)).dropna(axis="columns", how="all")
    frame["method"] = _lines(runs)
    last = frame.iloc[frame["compression_ratio"].argmax()]
    best = frame[name].max() if score == "accuracy" else frame[name].min()
    texts = {"compression": last["compression_ratio"], score: last[name], "title": title}
    counts = {run.metrics.get("num_test") for run in runs}
    num_test = counts.pop() if len(counts) == 1 else None
    figure = plots.accuracy_against_compression(frame, score=score, num_test=num_test)
    return picture(figure, f"{score}_against_compression", frame, best=best, **texts)


def _lines(runs: Sequence[Run]) -> list[str]:
    """Return the line of each run in the figure. Runs of a line differ only in their sparsity."""
    settings = [
        (r.metrics.get("method"), r.settings.get("sparsity")) for r, *_ in repetitions(runs)
    ]
    several = {method for method, _ in settings if settings.count((method, _)) > 1}
    return [_line(run, set(plots.METHODS) - several) for run in runs]


def _line(run: Run, names: set[str]) -> str:
    """Return the method of a run if it is one of the names, or its settings except the sparsity."""
    method = str(run.metrics.get("method"))
    if method in names:
        return method
    parts = [p for p in run.label.split(", ") if not p.startswith(("dense", "sparsity", "seed"))]
    if run.dense and not any(parts):
        return "bayes_unpruned" if run.settings.get("objective") == "map" else "unpruned"
    return ", ".join(filter(None, parts)) or method
