"""The sections of a report about runs: results, curves, decisions, layers, compression."""

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from pyro_bayesprune import plots
from pyro_bayesprune.experiments.loading import Run
from pyro_bayesprune.reporting import flags
from pyro_bayesprune.reporting.html import Panel, Picture, Table, picture, table_of

LONG = 12  # rows of a table that is folded
DETAILED = 12  # runs whose curves and decisions are shown; all are in the tables


def detailed(runs: Sequence[Run]) -> list[Run]:
    """Return the finished runs that are shown in detail."""
    return flags.finished(runs)[:DETAILED]


def _only_some(runs: Sequence[Run]) -> str:
    count = len(flags.finished(runs))
    return f" The first {DETAILED} of {count} runs are drawn." if count > DETAILED else ""


def results_panel(runs: Sequence[Run]) -> Panel:
    """Every run in numbers."""
    names = {
        "test_accuracy": "accuracy",
        "test_loss": "NLL (nats)",
        "test_brier": "Brier",
        "test_ece": "ECE",
        "achieved_sparsity": "sparsity",
        "parameters": "parameters",
        "compression_ratio": "times smaller",
        "theoretical_speedup": "times fewer multiply-adds",
        "epochs": "epochs",
        "seconds": "seconds",
    }
    rows = [
        {"run": run.title} | {word: run.metrics.get(name) for name, word in names.items()}
        for run in flags.finished(runs)
    ]
    many = _over_seeds(flags.finished(runs))
    return Panel(
        "results", "Results",
        "Every finished run in numbers, on the whole test set. Fewer multiply-adds is a count, no "
        "measured speed; ± is one sample standard deviation over seeds.",
        "Accuracy, NLL, Brier score and ECE close to those of the dense control.",
        "A high accuracy with a much larger NLL or ECE: right answers, wrong confidence.",
        "Compare runs of the same data, network and seed only.",
        [table_of(pd.DataFrame(rows), "Runs", folded=bool(many)), *many] if rows else [],
        "" if rows else "No run has finished.",
    )  # fmt: skip


def _over_seeds(runs: Sequence[Run]) -> list[Table]:
    """Mean ± sample standard deviation of runs that differ by their seed alone."""
    settings: dict[str, list[Run]] = {}
    for run in runs:
        rest = {name: value for name, value in run.settings.items() if name != "seed"}
        settings.setdefault(json.dumps(rest, sort_keys=True), []).append(run)
    metrics = ("test_accuracy", "test_loss", "test_brier", "test_ece", "achieved_sparsity")
    rows = [
        {"setting": alike[0].title.rpartition(", ")[0], "seeds": len(alike)}
        | {name.removeprefix("test_"): _mean_and_sd(alike, name) for name in metrics}
        for alike in settings.values()
    ]
    frame = pd.DataFrame(rows).rename(columns={"loss": "NLL (nats)"})
    return [table_of(frame, "Means over seeds")] if len(settings) < len(runs) else []


def _mean_and_sd(runs: Sequence[Run], name: str) -> str | None:
    values = pd.Series([run.metrics.get(name) for run in runs], dtype=float)
    if values.isna().any():
        return None
    return f"{values.mean():.4f}" + (f" ± {values.std():.4f}" if len(values) > 1 else "")


def curves_panel(runs: Sequence[Run]) -> Panel:
    """Learning curves."""
    content: list[Picture | Table] = []
    for run in detailed(runs):
        h = run.history
        kept = [c for c in ("epoch", "train_loss", "validation_loss", "test_loss", "log_bf",
                            "sparsity") if c in h]  # fmt: skip
        alt = (
            f"Loss fell from {h['train_loss'].iloc[0]:.3g} to {h['train_loss'].iloc[-1]:.3g} nats "
            f"an example; sparsity ended at {h['sparsity'].iloc[-1]:.1%}."
        )
        figure = plots.learning_curves(h)
        content.append(picture(figure, run.title, f"{run.title}: {alt}", h[kept]))
    return Panel(
        "curves", "Learning curves",
        "Loss by epoch, and the log Bayes factor and sparsity of each epoch's step."
        + _only_some(runs),
        "Losses fall, jump when weights go, and fall again to where they were.",
        "A loss that stays up after a step, or a held-out loss that rises while training loss "
        "falls.",
        "Train longer after the last step, or raise the sparsity in smaller steps (cubic).",
        content, "" if content else "No run has finished.",
    )  # fmt: skip


def decisions_panel(runs: Sequence[Run]) -> Panel:
    """Every decision."""
    columns = {
        "epoch": "epoch", "decision": "decision", "log_bf": "log BF (nats)",
        "log_likelihood_ratio": "likelihood part", "log_prior_ratio": "prior part",
        "log_threshold": "threshold", "recorded": "gate went by", "bf_per_datum": "BF per datum",
        "tries": "tries", "prior_decides": "prior alone", "sparsity": "sparsity",
    }  # fmt: skip
    content: list[Picture | Table] = []
    for run in detailed(runs):
        if not run.dense:
            frame = run.history[[c for c in columns if c in run.history]]
            caption = f"{run.title} (gate {run.settings.get('gate')}, beta "
            caption += f"{run.settings.get('beta')} per {run.settings.get('per')})"
            content += _decision_tables(frame.rename(columns=columns), caption)
    return Panel(
        "decisions", "Decisions",
        "Every pruning step: the log Bayes factor (pruned over unpruned) and its two parts. It is "
        "a ratio of joint densities at two points, not of marginal likelihoods.",
        "Likelihood parts near zero: what was cut was not needed. Under gate previous a step goes "
        "by the Bayes factor that was recorded before it; later epochs mend what a step breaks.",
        "A large negative likelihood part that a positive prior part outweighs: the prior alone "
        "decided.",
        "Where the prior decided, repeat with another prior scale; where steps were refused, lower "
        "beta or train longer.",
        content, "" if content else "No run was to be pruned.",
    )  # fmt: skip


def _decision_tables(frame: pd.DataFrame, caption: str) -> list[Table]:
    """The epochs at which something was to be decided, and, folded, all of them."""
    decided = frame[frame["decision"] != "unchanged"]
    every = table_of(frame, f"{caption}: all {len(frame)} epochs", folded=len(frame) > LONG)
    if not every.folded:
        return [every]
    return [table_of(decided, f"{caption}: epochs with a step"), every]


def layers_panel(runs: Sequence[Run]) -> Panel:
    """Sparsity by layer."""
    content: list[Picture | Table] = []
    for run in detailed(runs):
        layers = run.metrics.get("layer_sparsity") or {}
        if run.dense or not layers:
            continue
        dead = run.metrics.get("dead_units") or {}
        frame = pd.DataFrame(
            {
                "layer": list(layers),
                "kept": [1 - float(s) for s in layers.values()],
                "dead units": [dead.get(name) for name in layers],
            }
        )
        least = frame.iloc[frame["kept"].argmin()]
        alt = f"{run.title}: {least['layer']} keeps least, {least['kept']:.2%} of its weights."
        content.append(picture(plots.sparsity_by_layer(frame), run.title, alt, frame))
    return Panel(
        "layers", "Sparsity by layer",
        "The share of weights that each layer keeps, and units that have no incoming weight left.",
        "Layers keep similar shares, the last ones rather more; few units are dead.",
        "A layer that keeps almost nothing, or whose units are nearly all dead: the whole "
        "network's information passes through what is left of it.",
        "Prune over all layers together (scope global), or spare the layer.",
        content, "" if content else "No run was pruned.",
    )  # fmt: skip


def compression_panel(runs: Sequence[Run]) -> Panel:
    """Accuracy against compression."""
    done = [run for run in flags.finished(runs) if run.accuracy is not None]
    content: list[Picture | Table] = []
    for pair in dict.fromkeys(run.pair for run in done):
        rows = [
            {n: run.metrics.get(n) for n in ("compression_ratio", "test_accuracy")}
            | {"method": _known_method(run.metrics.get("method"))}
            | {"sparsity": run.settings.get("sparsity"), "seed": run.settings.get("seed")}
            for run in done
            if run.pair == pair and isinstance(run.settings.get("sparsity"), (int, float))
        ]
        frame, name = pd.DataFrame(rows), " ".join(map(str, pair))
        if frame.empty:
            continue
        best = frame.iloc[frame["compression_ratio"].argmax()]
        alt = (
            f"{name}: at the highest compression, {best['compression_ratio']:.0f} times, accuracy "
            f"is {best['test_accuracy']:.2%}; the best of all is {frame['test_accuracy'].max():.2%}"
        )
        if len(frame) < 2:  # one point is no curve
            content.append(table_of(frame, name))
            continue
        figure = plots.accuracy_against_compression(frame)
        content.append(picture(figure, name, alt, frame))
    return Panel(
        "compression", "Accuracy against compression",
        "Test accuracy of each run against the number of parameters before over after.",
        "A flat line: compression costs nothing. Bands that do not overlap tell methods apart.",
        "A cliff: beyond it the network loses its function.",
        "Choose a point well before the cliff; add sparsities where the line bends.",
        content, "" if content else "There are no test accuracies.",
    )  # fmt: skip


def _known_method(method: Any) -> str:  # noqa: ANN401
    """A method as figures know it."""
    return method if method in plots.METHODS else "custom"
