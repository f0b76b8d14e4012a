"""The report's sections about runs: results, curves, decisions, layers, compression."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from pyro_bayesprune import plots
from pyro_bayesprune.experiments.loading import Run
from pyro_bayesprune.reporting.flags import finished, repetitions
from pyro_bayesprune.reporting.html import Content, Panel, Table, panel, picture, table_of

LONG = 12  # tables with more rows are folded
DETAILED = 12  # runs with figures and decisions; the tables contain all runs
METRICS = {  # by the score of a run
    "accuracy": ["test_accuracy", "test_loss", "test_brier", "test_ece"],
    "rmse": ["test_rmse", "test_loss", "test_coverage_50", "test_coverage_90"],
}
SIZES = ["parameters", "compression_ratio", "theoretical_speedup", "epochs", "seconds"]
DECISIONS = [
    "epoch", "decision", "log_bf", "log_likelihood_ratio", "log_prior_ratio", "log_threshold",
    "recorded", "bf_per_datum", "tries", "prior_decides", "sparsity",
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
    kinds = METRICS.values() if len(scores_of(done)) > 1 else [METRICS[r.score] for r in done[:1]]
    metrics = [*dict.fromkeys(name for kind in kinds for name in kind), "achieved_sparsity"]
    groups, rows = repetitions(done), values_of(done, metrics + SIZES)
    if not rows:
        return panel("results", [])
    means = [
        {"setting": group[0].title.rpartition(", ")[0], "seeds": len(group)}
        | {name: _mean_and_sd(group, name) for name in metrics}
        for group in groups
    ]
    repeated = len(groups) < len(done)
    content = [table_of(pd.DataFrame(rows), "Runs", folded=repeated)]
    if repeated:
        content.append(table_of(pd.DataFrame(means), "Means over seeds"))
    return panel("results", content)


def _mean_and_sd(runs: Sequence[Run], name: str) -> str | None:
    values = pd.Series([run.metrics.get(name) for run in runs], dtype=float)
    if values.isna().any():
        return None
    return f"{values.mean():.4f}" + (f" ± {values.std():.4f}" if len(values) > 1 else "")


def curves_panel(runs: Sequence[Run]) -> Panel:
    """Return the section with the learning curves."""
    columns = ("epoch", "train_loss", "validation_loss", "test_loss", "log_bf", "sparsity")
    content = []
    for run in detailed(runs):
        history, loss = run.history, run.history["train_loss"]
        values = {"first": loss.iloc[0], "last": loss.iloc[-1]}
        values["sparsity"] = history["sparsity"].iloc[-1]
        table = history[[name for name in columns if name in history]]
        figure = plots.learning_curves(history)
        content.append(picture(figure, "learning_curves", table, title=run.title, **values))
    count = len(finished(runs))
    note = f"Figures show the first {DETAILED} of {count} runs." if count > DETAILED else ""
    return panel("curves", content, note)


def decisions_panel(runs: Sequence[Run]) -> Panel:
    """Return the section with every pruning decision."""
    content: list[Table] = []
    for run in detailed(runs):
        if not run.dense:
            gate, beta, per = (run.settings.get(name) for name in ("gate", "beta", "per"))
            frame = run.history[[name for name in DECISIONS if name in run.history]]
            content += _decision_tables(frame, f"{run.title} (gate {gate}, beta {beta} per {per})")
    return panel("decisions", content)


def _decision_tables(frame: pd.DataFrame, caption: str) -> list[Table]:
    """Return a table of all epochs. If it is long, a table of those with a step precedes it."""
    all_epochs = table_of(frame, f"{caption}: all {len(frame)} epochs", folded=len(frame) > LONG)
    if not all_epochs.folded:
        return [all_epochs]
    steps = frame[frame["decision"] != "unchanged"]
    return [table_of(steps, f"{caption}: epochs with a step"), all_epochs]


def layers_panel(runs: Sequence[Run]) -> Panel:
    """Return the section with the sparsity of each layer."""
    content = []
    for run in detailed(runs):
        sparsity = run.metrics.get("layer_sparsity") or {}
        if run.dense or not sparsity:
            continue
        dead = run.metrics.get("dead_units") or {}
        rows = [(name, 1 - float(s), dead.get(name)) for name, s in sparsity.items()]
        frame = pd.DataFrame(rows, columns=["layer", "kept", "dead units"])
        layer, share, _ = min(rows, key=lambda row: row[1])
        values = {"title": run.title, "layer": layer, "share": share}
        figure = plots.sparsity_by_layer(frame)
        content.append(picture(figure, "sparsity_by_layer", frame, **values))
    return panel("layers", content)


def compression_panel(runs: Sequence[Run]) -> Panel:
    """Return the section with accuracy or RMSE against compression."""
    done = [run for run in finished(runs) if run.test_score is not None]
    done = [run for run in done if isinstance(run.settings.get("sparsity"), (int, float))]
    content: Content = []
    for pair, score in dict.fromkeys((run.pair, run.score) for run in done):
        chosen = [run for run in done if (run.pair, run.score) == (pair, score)]
        values, name = [run.settings | run.metrics for run in chosen], f"test_{score}"
        columns = ["compression_ratio", name, "method", "sparsity", "seed"]
        frame, title = pd.DataFrame(values).reindex(columns=columns), " ".join(map(str, pair))
        frame["method"] = frame["method"].where(frame["method"].isin([*plots.METHODS]), "custom")
        if len(frame) == 1:
            content.append(table_of(frame, title))
            continue
        last = frame.iloc[frame["compression_ratio"].argmax()]
        texts = {"compression": last["compression_ratio"], score: last[name], "title": title}
        texts["best"] = frame[name].max() if score == "accuracy" else frame[name].min()
        figure = plots.accuracy_against_compression(frame, score=score)
        content.append(picture(figure, f"{score}_against_compression", frame, **texts))
    return panel("compression", content)
