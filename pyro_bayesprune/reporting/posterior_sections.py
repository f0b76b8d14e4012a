"""The report's sections about draws: ArviZ's diagnostics, calibration, prior sensitivity."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from pyro_bayesprune import plots
from pyro_bayesprune.diagnostics.thresholds import GOOD_ESS, GOOD_K, GOOD_RHAT
from pyro_bayesprune.experiments.loading import Run
from pyro_bayesprune.reporting import html
from pyro_bayesprune.reporting.analysis import SHIFTED
from pyro_bayesprune.reporting.flags import finished
from pyro_bayesprune.reporting.html import (
    Card,
    Cards,
    Content,
    Group,
    Panel,
    Picture,
    Table,
    of,
    panel,
    picture,
    table_of,
)
from pyro_bayesprune.reporting.run_sections import detailed, scores_of, values_of

CAPTIONS = html.TEXTS["captions"]
PRIORS = ["prior", "prior_scale", "prior_decided"]
COMPARED = ["rank", "elpd_loo", "p_loo", "elpd_diff", "se", "dse", "weight", "warning"]


def _diagnosed(runs: Sequence[Run]) -> list[tuple[Run, dict[str, Any]]]:
    """Return the runs that have draws, with their diagnostics."""
    pairs = [(run, run.analysis.get("diagnostics")) for run in detailed(runs)]
    return [(run, diagnostics) for run, diagnostics in pairs if diagnostics]


def arviz_panel(runs: Sequence[Run]) -> Panel:
    """Return the section with ArviZ's diagnostics of the draws."""
    diagnosed = _diagnosed(runs)
    if len(runs) == 1:
        return panel("arviz", _diagnostics(*diagnosed[0]) if diagnosed else [])
    groups: Content = [Group(CAPTIONS["details"] + of(r), _diagnostics(r, d)) for r, d in diagnosed]
    overview = [table_of(pd.DataFrame([_overview(r, d) for r, d in diagnosed]), CAPTIONS["draws"])]
    comparisons, problems = _comparisons(diagnosed)
    content = [*overview, *comparisons, *groups] if diagnosed else []
    return panel("arviz", content, " ".join(problems))


def _diagnostics(run: Run, diagnostics: dict[str, Any]) -> Content:
    summary, targets = (pd.DataFrame(diagnostics[name]) for name in ("summary", "frequencies"))
    pareto = pd.DataFrame(diagnostics["loo"]["pareto"])
    gap = (targets["posterior"] - targets["observed"]).abs().max()
    values = {"title": run.title, "of": of(run), "gap": gap}
    return [
        _cards(run, diagnostics),
        *([_traces(run, diagnostics)] if diagnostics["chains"] > 1 else []),
        picture(
            plots.class_frequencies(targets), f"{targets.columns[0]}_frequencies", targets, **values
        ),
        table_of(summary, CAPTIONS["summary"].format(of=of(run)), folded=True),
        table_of(pareto, f"Pareto k of LOO{of(run)}", folded=True),
    ]


def _overview(run: Run, diagnostics: dict[str, Any]) -> dict[str, Any]:
    loo, names = diagnostics["loo"], ("rhat_log_joint", "ess_log_joint")
    return {
        "run": run.title,
        "draws": f"{diagnostics['chains']} × {diagnostics['draws']}",
        "weights": diagnostics["surviving_weights_drawn"],
        **{name: diagnostics["convergence"].get(name) for name in names},
        "elpd_loo": f"{loo['elpd']:.1f} ± {loo['se']:.1f}",
        "k_above": _share_above(loo),
    }


def _share_above(loo: dict[str, Any]) -> str:
    return f"{sum(row['share'] for row in loo['pareto'][1:]):.1%}"


def _cards(run: Run, diagnostics: dict[str, Any]) -> Cards:
    loo, convergence = diagnostics["loo"], diagnostics["convergence"]
    values = {
        "draws": f"{diagnostics['chains']} × {diagnostics['draws']}",
        "rhat": html.formatted(convergence.get("rhat_log_joint")),
        "ess": html.formatted(convergence.get("ess_log_joint")),
        "divergences": html.formatted(convergence.get("divergences")),
        "elpd": f"{loo['elpd']:.0f} ± {loo['se']:.0f}",
        "pareto": _share_above(loo),
    }
    facts = diagnostics | {"sites": ", ".join(diagnostics["drawn_sites"]), "k": GOOD_K}
    facts |= {"examples": loo["examples"], "p_loo": loo["p_loo"]}
    exact = diagnostics["log_likelihood_total"] == "exact"
    facts["estimated"] = "" if exact else f" Log likelihood: {diagnostics['log_likelihood_total']}."
    facts |= {"rhat": GOOD_RHAT, "ess": GOOD_ESS, "title": run.title}
    texts = html.TEXTS["draw_cards"]
    shown = {name: value for name, value in values.items() if value != "–"}
    cards = [Card(texts[n][0], value, texts[n][1].format(**facts)) for n, value in shown.items()]
    return Cards(cards, f"Draws{of(run)}: {diagnostics['approximation']}")


def _traces(run: Run, diagnostics: dict[str, Any]) -> Picture:
    frame = pd.DataFrame(diagnostics["trace"])
    by_chain = frame.groupby("chain")["value"].agg(["mean", "std", "min", "max"]).reset_index()
    table = table_of(by_chain, "Log joint of each chain (nats, up to a constant)")
    values = {name: diagnostics[name] for name in ("chains", "approximation")}
    values["rhat"] = html.formatted(diagnostics["convergence"].get("rhat_log_joint"))
    return picture(plots.traces(frame), "traces", table, title=run.title, of=of(run), **values)


def _comparisons(
    diagnosed: Sequence[tuple[Run, dict[str, Any]]],
) -> tuple[list[Table], list[str]]:
    """Return ArviZ's comparisons, one for each kind of draws, and why some are missing."""
    from pyro_bayesprune.diagnostics import conversion, statistics  # needs ArviZ

    kinds: dict[str, dict[str, Any]] = {}
    problems: list[str] = []
    for run, diagnostics in diagnosed:
        networks = kinds.setdefault(diagnostics["approximation"], {})
        if run.folder and (run.folder / conversion.FILE).exists():
            try:
                networks[run.title] = conversion.load(run.folder / conversion.FILE)
            except ValueError as error:  # a damaged file
                problems.append(CAPTIONS["not_compared"].format(names=run.title, error=error))
    tables: list[Table] = []
    problems += [CAPTIONS["several_kinds"]] * (len(kinds) > 1)
    for kind, networks in kinds.items():
        if len(networks) < 2:
            continue
        try:
            frame = statistics.compare(networks)[COMPARED].rename_axis("network").reset_index()
        except ValueError as error:  # different examples
            problems.append(CAPTIONS["not_compared"].format(names=", ".join(networks), error=error))
            continue
        tables.append(table_of(frame, CAPTIONS["comparison"].format(kind=kind, limit=GOOD_K)))
    return tables, problems


def calibration_panel(runs: Sequence[Run]) -> Panel:
    """Return the section with calibration, and with uncertainty on shifted inputs."""
    analysed = [run for run in detailed(runs) if run.analysis.get("scores")]
    if not analysed:
        return panel("calibration", [])
    caption = CAPTIONS["scores"].format(examples=analysed[0].analysis.get("examples"))
    if averaged := analysed[-1].analysis.get("averaged"):
        caption += CAPTIONS["averaged"].format(averaged=averaged)
    classes = [run for run in analysed if "ece" in run.analysis["scores"][0]]
    others = [run for run in analysed if "ece" not in run.analysis["scores"][0]]
    content = _calibration_of_classes(classes, caption) if classes else []
    content += _calibration_of_numbers(others, caption) if others else []
    return panel("calibration", content)


def _calibration_of_numbers(analysed: Sequence[Run], caption: str) -> Content:
    table = table_of(_joined(analysed, "scores"), caption)
    analysed = [run for run in analysed if run.analysis.get("pit")]
    if not analysed:
        return [table]
    scores, pit, coverage = (_joined(analysed, name) for name in ("scores", "pit", "coverage"))
    worst = dict(scores.iloc[(scores["coverage_90"] - 0.9).abs().argmax()])
    texts = {"network": worst["network"], "coverage": worst["coverage_90"]}
    return [
        table,
        picture(plots.pit(pit), "pit", pit, most=pit["share"].max()),
        picture(plots.coverage(coverage), "coverage", coverage, **texts),
    ]


def _calibration_of_classes(analysed: Sequence[Run], caption: str) -> Content:
    scores, foreign = _joined(analysed, "scores"), _joined(analysed, "foreign")
    content: Content = [table_of(scores, caption), *_curves(analysed, scores)]
    shifts = [_shifts(run) for run in analysed if run.analysis["shift"]]
    content += shifts if len(shifts) < 2 else [Group(CAPTIONS["shifts"], shifts)]
    if len(foreign):
        content.append(table_of(foreign, CAPTIONS["foreign"]))
    sparsity = {run.title: float(run.metrics.get("achieved_sparsity") or 0.0) for run in analysed}
    if len(set(sparsity.values())) > 1:
        frames = [
            pd.DataFrame(r.analysis["scores"]).assign(sparsity=sparsity[r.title]) for r in analysed
        ]
        content.append(
            picture(plots.calibration_by_sparsity(pd.concat(frames)), "calibration_by_sparsity")
        )
    return content


def _joined(runs: Sequence[Run], name: str) -> pd.DataFrame:
    """Return a table of the analyses of all runs. The names of networks contain several runs."""
    return pd.DataFrame(
        row | ({"network": f"{run.title}, {row['network']}"} if len(runs) > 1 else {})
        for run in runs
        for row in run.analysis.get(name) or []
    )


def _curves(runs: Sequence[Run], scores: pd.DataFrame) -> list[Picture]:
    bins, rejected = (_joined(runs, name) for name in ("reliability", "rejection"))
    worst = dict(scores.iloc[scores["ece"].argmax()][["ece", "network"]])
    best = rejected["accuracy"].max()
    return [
        picture(plots.reliability(bins), "reliability", bins, **worst),
        picture(plots.rejection(rejected), "rejection", rejected, best=best),
    ]


def _shifts(run: Run) -> Picture:
    frame = pd.DataFrame(run.analysis["shift"])
    values = {"accuracy": frame["accuracy"].min(), "entropy": frame["entropy"].max()}
    bins = pd.DataFrame(run.analysis["reliability"])
    examples = bins.loc[bins["network"] == bins["network"].iloc[0], "examples"].sum()
    figure = plots.shifts(frame, num_test=min(int(examples), SHIFTED))
    return picture(figure, "shifts", frame, title=run.title, of=of(run), **values)


def prior_panel(runs: Sequence[Run]) -> Panel:
    """Return the section with the influence of the prior."""
    content = []
    if len(done := finished(runs)) > 1:
        priors = values_of(done, [*PRIORS, *scores_of(done)])
        content.append(table_of(pd.DataFrame(priors), CAPTIONS["priors"]))
    for run, diagnostics in _diagnosed(runs):
        frame = pd.DataFrame(diagnostics["power_scaling"])
        counts = frame["diagnosis"].replace("-", "no problem").value_counts()
        results = "; ".join(f"{diagnosis} ({n} quantities)" for diagnosis, n in counts.items())
        caption = CAPTIONS["power_scaling"].format(of=of(run), results=results)
        worst = frame.sort_values("prior", ascending=False, kind="stable")
        content.append(table_of(worst, caption, folded=True))
    return panel("prior", content)
