"""The report's sections about draws: ArviZ's diagnostics, calibration, prior sensitivity."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from pyro_bayesprune import plots
from pyro_bayesprune.diagnostics import conversion, statistics
from pyro_bayesprune.diagnostics.thresholds import GOOD_K
from pyro_bayesprune.experiments.loading import Run
from pyro_bayesprune.reporting import html
from pyro_bayesprune.reporting.flags import finished
from pyro_bayesprune.reporting.html import Content, Panel, Picture, Table, panel, picture, table_of
from pyro_bayesprune.reporting.run_sections import LONG, detailed, scores_of, values_of

CAPTIONS, HEADERS = html.TEXTS["captions"], html.TEXTS["headers"]
PRIORS = ["prior", "prior_scale", "prior_decided"]
COMPARED = ["rank", "elpd_loo", "p_loo", "elpd_diff", "se", "dse", "weight", "warning"]


def _diagnosed(runs: Sequence[Run]) -> list[tuple[Run, dict[str, Any]]]:
    """Return the runs that have draws, with their diagnostics."""
    pairs = [(run, run.analysis.get("diagnostics")) for run in detailed(runs)]
    return [(run, diagnostics) for run, diagnostics in pairs if diagnostics]


def arviz_panel(runs: Sequence[Run]) -> Panel:
    """Return the section with ArviZ's diagnostics of the draws."""
    diagnosed = _diagnosed(runs)
    comparisons = _comparisons(diagnosed)
    content = [item for run, diagnostics in diagnosed for item in _diagnostics(run, diagnostics)]
    content += comparisons
    note = CAPTIONS["not_compared"] if len(diagnosed) > 1 and not comparisons else ""
    return panel("arviz", content, note)


def _diagnostics(run: Run, diagnostics: dict[str, Any]) -> Content:
    title, approximation = run.title, diagnostics["approximation"]
    traces = [_traces(title, diagnostics)] if diagnostics["chains"] > 1 else []
    summary, targets = (pd.DataFrame(diagnostics[name]) for name in ("summary", "frequencies"))
    caption = CAPTIONS["summary"].format(title=title)
    pareto = pd.DataFrame(diagnostics["loo"]["pareto"])
    gap = (targets["posterior"] - targets["observed"]).abs().max()
    figure = plots.class_frequencies(targets)
    return [
        table_of(_overview(diagnostics), f"{title}: {approximation}"),
        *traces,
        table_of(summary, caption, folded=len(summary) > LONG),
        table_of(pareto, f"{title}: Pareto k of LOO"),
        picture(figure, f"{targets.columns[0]}_frequencies", targets, title=title, gap=gap),
    ]


def _overview(diagnostics: dict[str, Any]) -> pd.DataFrame:
    loo = diagnostics["loo"]
    values = {
        "drawn weights": diagnostics["surviving_weights_drawn"],
        "drawn sites": ", ".join(diagnostics["drawn_sites"]),
        "chains": diagnostics["chains"],
        "draws per chain": diagnostics["draws"],
        **{HEADERS.get(n, n): v for n, v in diagnostics["convergence"].items() if v is not None},
        "log likelihood within the log joint": diagnostics["log_likelihood_total"],
        "LOO, elpd (nats)": f"{loo['elpd']:.1f} ± {loo['se']:.1f}",
        "LOO, examples": f"{loo['examples']} training examples, chosen at random, given all others",
        "LOO, effective parameters": loo["p_loo"],
    }
    return pd.DataFrame(values.items(), columns=["quantity", "value"])


def _traces(title: str, diagnostics: dict[str, Any]) -> Picture:
    frame = pd.DataFrame(diagnostics["trace"])
    by_chain = frame.groupby("chain")["value"].agg(["mean", "std", "min", "max"]).reset_index()
    table = table_of(by_chain, "Log joint of each chain (nats, up to a constant)")
    values = {name: diagnostics[name] for name in ("chains", "approximation")}
    values["rhat"] = html.formatted(diagnostics["convergence"].get("rhat_log_joint"))
    return picture(plots.traces(frame), "traces", table, title=title, **values)


def _comparisons(diagnosed: Sequence[tuple[Run, dict[str, Any]]]) -> list[Table]:
    """Return ArviZ's comparisons of networks, one for each kind of draws."""
    kinds: dict[str, dict[str, Any]] = {}
    for run, diagnostics in diagnosed:
        if run.folder and (run.folder / conversion.FILE).exists():
            idata = conversion.load(run.folder / conversion.FILE)
            kinds.setdefault(diagnostics["approximation"], {})[run.title] = idata
    tables = []
    for kind, networks in kinds.items():
        try:
            frame = statistics.compare(networks)[COMPARED].rename_axis("network").reset_index()
        except ValueError:  # fewer than two networks, or different examples
            continue
        tables.append(table_of(frame, CAPTIONS["comparison"].format(kind=kind, limit=GOOD_K)))
    return tables


def calibration_panel(runs: Sequence[Run]) -> Panel:
    """Return the section with calibration, and with uncertainty on shifted inputs."""
    analysed = [run for run in detailed(runs) if run.analysis.get("scores")]
    if not analysed:
        return panel("calibration", [])
    caption = CAPTIONS["scores"].format(examples=analysed[0].analysis.get("examples"))
    if averaged := analysed[-1].analysis.get("averaged"):
        caption += CAPTIONS["averaged"].format(averaged=averaged)
    classes = [run for run in analysed if run.score == "accuracy"]
    others = [run for run in analysed if run.score != "accuracy"]
    content = _calibration_of_classes(classes, caption) if classes else []
    content += _calibration_of_numbers(others, caption) if others else []
    return panel("calibration", content)


def _calibration_of_numbers(analysed: Sequence[Run], caption: str) -> Content:
    scores, pit, coverage = (_joined(analysed, name) for name in ("scores", "pit", "coverage"))
    worst = dict(scores.iloc[(scores["coverage_90"] - 0.9).abs().argmax()])
    texts = {"network": worst["network"], "coverage": worst["coverage_90"]}
    frames = (pit.drop(columns="sparsity"), coverage.drop(columns="sparsity"))
    return [
        table_of(scores, caption),
        picture(plots.pit(pit), "pit", frames[0], most=pit["share"].max()),
        picture(plots.coverage(coverage), "coverage", frames[1], **texts),
    ]


def _calibration_of_classes(analysed: Sequence[Run], caption: str) -> Content:
    scores, foreign = _joined(analysed, "scores"), _joined(analysed, "foreign")
    content: Content = [table_of(scores, caption), *_curves(analysed, scores)]
    content += [_shifts(run) for run in analysed[:4] if run.analysis["shift"]]
    if len(foreign):
        content.append(table_of(foreign, CAPTIONS["foreign"]))
    if scores["sparsity"].nunique() > 1:
        kinds = scores["network"].str.rsplit(", ", n=1).str[-1]
        figure = plots.calibration_by_sparsity(scores.assign(network=kinds))
        content.append(picture(figure, "calibration_by_sparsity"))
    return content


def _joined(runs: Sequence[Run], name: str) -> pd.DataFrame:
    """Return a table of the analyses of all runs. The names of networks contain the run."""
    return pd.DataFrame(
        row
        | {"network": f"{run.title}, {row['network']}"}
        | {"sparsity": float(run.metrics.get("achieved_sparsity") or 0.0)}
        for run in runs
        for row in run.analysis.get(name) or []
    )


def _curves(runs: Sequence[Run], scores: pd.DataFrame) -> list[Picture]:
    names = ("reliability", "rejection")
    bins, rejected = (_joined(runs, name).drop(columns="sparsity") for name in names)
    worst = dict(scores.iloc[scores["ece"].argmax()][["ece", "network"]])
    best = rejected["accuracy"].max()
    return [
        picture(plots.reliability(bins), "reliability", bins, **worst),
        picture(plots.rejection(rejected), "rejection", rejected, best=best),
    ]


def _shifts(run: Run) -> Picture:
    frame = pd.DataFrame(run.analysis["shift"])
    values = {"accuracy": frame["accuracy"].min(), "entropy": frame["entropy"].max()}
    return picture(plots.shifts(frame), "shifts", frame, title=run.title, **values)


def prior_panel(runs: Sequence[Run]) -> Panel:
    """Return the section with the influence of the prior."""
    content = []
    for run, diagnostics in _diagnosed(runs):
        frame = pd.DataFrame(diagnostics["power_scaling"])
        counts = frame["diagnosis"].replace("-", "no problem").value_counts()
        results = "; ".join(f"{diagnosis} ({n} quantities)" for diagnosis, n in counts.items())
        caption = f"{run.title}: power-scaling sensitivity. Diagnoses: {results}"
        content.append(table_of(frame, caption, folded=len(frame) > LONG))
    if priors := values_of(finished(runs), [*PRIORS, *scores_of(runs)]):
        content.append(table_of(pd.DataFrame(priors), "Priors and the decisions that they made"))
    return panel("prior", content)
