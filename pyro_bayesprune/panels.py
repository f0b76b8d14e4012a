"""The sections of a report: each shows one thing about the runs and says how to read it."""

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from pyro_bayesprune import inference_data, judgement, plots, trust_plots
from pyro_bayesprune.judgement import Run
from pyro_bayesprune.page import Panel, Picture, Table, picture, shown, svg, table_of

LONG = 12  # rows of a table that is folded
DETAILED = 12  # runs whose curves and decisions are shown; all are in the tables


def detailed(runs: Sequence[Run]) -> list[Run]:
    """Return the finished runs that are shown in detail."""
    return judgement.finished(runs)[:DETAILED]


def _only_some(runs: Sequence[Run]) -> str:
    count = len(judgement.finished(runs))
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
        {"run": run.title} | {word: run.result.get(name) for name, word in names.items()}
        for run in judgement.finished(runs)
    ]
    many = _over_seeds(judgement.finished(runs))
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
        rest = {name: value for name, value in run.config.items() if name != "seed"}
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
    values = pd.Series([run.result.get(name) for run in runs], dtype=float)
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
            caption = f"{run.title} (gate {run.config.get('gate')}, beta "
            caption += f"{run.config.get('beta')} per {run.config.get('per')})"
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
        layers = run.result.get("layer_sparsity") or {}
        if run.dense or not layers:
            continue
        dead = run.result.get("dead_units") or {}
        frame = pd.DataFrame(
            {
                "layer": list(layers),
                "kept": [1 - float(s) for s in layers.values()],
                "dead units": [dead.get(name) for name in layers],
            }
        )
        least = frame.iloc[frame["kept"].argmin()]
        alt = f"{run.title}: {least['layer']} keeps least, {least['kept']:.2%} of its weights."
        content.append(picture(trust_plots.sparsity_by_layer(frame), run.title, alt, frame))
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
    done = [run for run in judgement.finished(runs) if run.accuracy is not None]
    content: list[Picture | Table] = []
    for pair in dict.fromkeys(run.pair for run in done):
        rows = [
            {n: run.result.get(n) for n in ("compression_ratio", "test_accuracy")}
            | {"method": _known(run.result.get("method"))}
            | {"sparsity": run.config.get("sparsity"), "seed": run.config.get("seed")}
            for run in done
            if run.pair == pair and isinstance(run.config.get("sparsity"), (int, float))
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


def _known(method: Any) -> str:  # noqa: ANN401
    """A method as figures know it."""
    return method if method in plots.METHODS else "custom"


def _diagnosed(runs: Sequence[Run]) -> list[tuple[Run, dict[str, Any]]]:
    found = [(run, run.analysis.get("diagnostics") or {}) for run in detailed(runs)]
    return [(run, told) for run, told in found if told]


NO_DRAWS = (
    "There are no posterior draws: a MAP alone has no rhat, ESS or LOO. Make them with "
    "bayesprune report RUN --draws auto."
)
NOT_COMPARED = (
    "The networks are not compared by LOO, as their draws are of different kinds. Draw all in one "
    "way: bayesprune report RUNS --draws last_layer_laplace."
)


def arviz_panel(runs: Sequence[Run]) -> Panel:
    """ArviZ's diagnostics of the draws."""
    content: list[Picture | Table] = []
    for run, told in _diagnosed(runs):
        what = f"{run.title}: {told['approximation']}"
        content.append(table_of(_overview(told), what))
        if told["chains"] > 1:
            frame = pd.DataFrame(told["trace"])
            rhat = told["convergence"].get("rhat_log_joint")
            alt = f"{what}. Log joint of {told['chains']} chains; rhat {shown(rhat)}."
            content.append(
                Picture(
                    svg(trust_plots.traces(frame), alt),
                    f"{run.title}: chains of the log joint",
                    _chain_table(frame),
                )  # fmt: skip
            )
        frame = pd.DataFrame(told["summary"])
        caption = f"{run.title}: quantities of the draws (probability[i]: of the class that the "
        caption += "MAP predicts for test example i)"
        content.append(table_of(frame, caption, folded=len(frame) > LONG))
        pareto = pd.DataFrame(told["loo"]["pareto"])
        content.append(table_of(pareto, f"{run.title}: Pareto k of LOO"))
        frame = pd.DataFrame(told["frequencies"])
        alt = f"{run.title}: largest gap of posterior predictive to observed class frequencies "
        alt += f"{(frame['posterior'] - frame['observed']).abs().max():.3f}."
        figure = trust_plots.class_frequencies(frame)
        content.append(picture(figure, f"{run.title}: class frequencies", alt, frame))
    compared = _compared(runs)
    content += compared
    alone = NOT_COMPARED if len(_diagnosed(runs)) > 1 and not compared else ""
    return Panel(
        "arviz", "Posterior diagnostics (ArviZ)",
        "Whether the draws are fit for use: rhat and effective sample size of chains, PSIS-LOO "
        "with Pareto k, predicted class frequencies. What is drawn from an approximation speaks of "
        "the approximation. LOO leaves an example out of the drawn weights alone: layers that are "
        "held at their point have seen it. Single weights may fail rhat by the network's "
        "symmetries: judge by log joint and predictions.",
        f"rhat at most {judgement.GOOD_RHAT}, ESS above {judgement.GOOD_ESS}, no divergence, "
        "Pareto k below 0.7; chains overlap and ranks are flat; posterior frequencies like the "
        "observed ones.",
        "Chains that stay apart; many k above 0.7: LOO is then no estimate of anything.",
        "Draw longer chains with more warm-up; where k is high, judge by held-out data.",
        content, alone if content else NO_DRAWS,
    )  # fmt: skip


def _overview(told: dict[str, Any]) -> pd.DataFrame:
    loo = told["loo"]
    values: dict[str, Any] = {
        "weights drawn": told["surviving_weights_drawn"],
        "from": ", ".join(told["drawn_sites"]),
        "chains": told["chains"],
        "draws of each": told["draws"],
        **_convergence(told["convergence"]),
        "log likelihood within the log joint": told["log_likelihood_total"],
        "LOO, elpd (nats)": f"{loo['elpd']:.1f} ± {loo['se']:.1f}",
        "LOO, over": f"{loo['examples']} training examples, chosen at random; given all others",
        "LOO, effective parameters": loo["p_loo"],
    }
    return pd.DataFrame({"what": list(values), "value": list(values.values())})


def _convergence(found: dict[str, Any]) -> dict[str, Any]:
    """What there is (independent draws have no rhat), in words."""
    words = {"rhat": "largest rhat of", "ess": "smallest ESS of", "divergences": "divergences"}
    named = {name.partition("_"): value for name, value in found.items() if value is not None}
    return {f"{words[k]} {rest.replace('_', ' ')}".strip(): v for (k, _, rest), v in named.items()}


def _chain_table(frame: pd.DataFrame) -> Table:
    by_chain = frame.groupby("chain")["value"].agg(["mean", "std", "min", "max"]).reset_index()
    return table_of(by_chain, "Log joint by chain (nats, up to a constant)")


def _compared(runs: Sequence[Run]) -> list[Table]:
    """ArviZ's comparison of the networks that have draws of the same kind on the same examples."""
    kinds: dict[str, dict[str, Any]] = {}
    for run, told in _diagnosed(runs):
        if run.folder and (run.folder / inference_data.FILE).exists():
            idata = inference_data.load(run.folder / inference_data.FILE)
            kinds.setdefault(told["approximation"], {})[run.title] = idata
    tables = []
    for kind, loaded in kinds.items():
        try:
            frame = inference_data.compare(loaded)
        except ValueError:  # fewer than two, or other examples: there is nothing to compare
            continue
        kept = frame[["rank", "elpd_loo", "p_loo", "elpd_diff", "se", "dse", "weight", "warning"]]
        caption = f"Networks by LOO (az.compare), best first; {kind}. Where there is a warning, "
        caption += "a Pareto k is above 0.7: do not rank by it"
        tables.append(table_of(kept.rename_axis("network").reset_index(), caption))
    return tables


def calibration_panel(runs: Sequence[Run]) -> Panel:
    """Calibration and doubt."""
    analysed = [run for run in detailed(runs) if run.analysis.get("scores")]
    content: list[Picture | Table] = []
    if analysed:
        content += _calibration_figures(analysed)
    return Panel(
        "calibration", "Calibration and doubt",
        "Whether confidence can be believed, refusing the most doubtful answers helps, and doubt "
        "grows on inputs that are turned, noisy or foreign.",
        "Reliability near the diagonal; accuracy that rises with refusal; entropy that rises as "
        "accuracy falls; AUROC for foreign inputs above 0.9.",
        "Points below the diagonal: overconfident. Low entropy on shifted inputs: wrong and sure.",
        "Average over draws, rescale confidence on held-out data, or refuse doubtful inputs.",
        content,
        "" if content else "Not measured. To measure it: bayesprune report RUN --draws auto "
        "(--draws none: of the MAP alone).",
    )  # fmt: skip


def _joined(runs: Sequence[Run], name: str) -> pd.DataFrame:
    """Return one of the analyses' tables for all runs, networks named by run."""
    rows = [
        row | {"network": f"{run.title}, {row['network']}", "sparsity": _sparsity(run)}
        for run in runs
        for row in run.analysis.get(name) or []
    ]
    return pd.DataFrame(rows)


def _sparsity(run: Run) -> float:
    return float(run.result.get("achieved_sparsity") or 0.0)


def _calibration_figures(runs: Sequence[Run]) -> list[Picture | Table]:
    scores = _joined(runs, "scores")
    few = f"on {runs[0].analysis.get('examples')} test examples chosen at random (fewer where "
    few += "the test set is smaller)"
    if averaged := runs[-1].analysis.get("averaged"):
        few += f"; means are over {averaged} draws"
    content: list[Picture | Table] = [table_of(scores, f"Dense and pruned, MAP and draws, {few}")]
    table = _joined(runs, "reliability").drop(columns="sparsity")
    worst = scores.iloc[scores["ece"].argmax()]
    alt = f"Accuracy against confidence; the largest ECE is {worst['ece']:.3f}, {worst['network']}."
    caption = "Reliability (the larger a marker, the more examples)"
    content.append(picture(trust_plots.reliability(table), caption, alt, table))
    table = _joined(runs, "rejection").drop(columns="sparsity")
    alt = f"Accuracy when doubtful inputs are refused: at best {table['accuracy'].max():.2%}."
    content.append(picture(trust_plots.rejection(table), "Accuracy against rejection", alt, table))
    for run in runs[:4]:
        shift = pd.DataFrame(run.analysis["shift"])
        alt = f"{run.title}: accuracy falls to {shift['accuracy'].min():.1%} under shift; entropy "
        alt += f"rises to {shift['entropy'].max():.2f} nats."
        content.append(
            picture(trust_plots.shifts(shift), f"{run.title}: shifted inputs", alt, shift)
        )
    foreign = _joined(runs, "foreign")
    if len(foreign):
        content.append(table_of(foreign, "AUROC of entropy for telling foreign inputs"))
    if scores["sparsity"].nunique() > 1:
        kinds = scores["network"].str.rsplit(", ", n=1).str[-1]
        figure = trust_plots.calibration_by_sparsity(scores.assign(network=kinds))
        alt = "Calibration error of MAP and draws against sparsity."
        content.append(picture(figure, "Calibration error against sparsity", alt, None))
    return content


def _sensitivity(frame: pd.DataFrame) -> str:
    counts = frame["diagnosis"].replace("-", "nothing").value_counts()
    told = "; ".join(f"{diagnosis}, for {n} quantities" for diagnosis, n in counts.items())
    return f"power-scaling sensitivity. Found: {told}"


def prior_panel(runs: Sequence[Run]) -> Panel:
    """How much the prior matters."""
    content: list[Picture | Table] = [
        table_of(frame, f"{run.title}: {_sensitivity(frame)}", folded=len(frame) > LONG)
        for run, frame in [(run, pd.DataFrame(t["power_scaling"])) for run, t in _diagnosed(runs)]
    ]
    done = judgement.finished(runs)
    rows = [
        {
            "run": run.title,
            "prior": run.config.get("prior"),
            "scale": run.config.get("prior_scale"),
            "steps that the prior alone decided": run.result.get("prior_decided"),
            "accuracy": run.accuracy,
        }
        for run in done
    ]
    if rows:
        content.append(table_of(pd.DataFrame(rows), "Priors and what they decided"))
    return Panel(
        "prior", "Prior sensitivity",
        "How strongly results react when prior or likelihood is made a little stronger "
        "(power-scaling of the draws), and which decisions the prior alone turned.",
        "Prior sensitivity below 0.05: the data speak.",
        "Prior and likelihood both above 0.05: they pull in different directions. Prior above, "
        "likelihood below: the data say little. A diagnosis of none: the draws cannot tell.",
        "Repeat the run with half and twice the prior scale and compare.",
        content, "" if content else "No run has finished.",
    )  # fmt: skip


PANELS = (
    results_panel,
    curves_panel,
    decisions_panel,
    layers_panel,
    compression_panel,
    arviz_panel,
    calibration_panel,
    prior_panel,
)
