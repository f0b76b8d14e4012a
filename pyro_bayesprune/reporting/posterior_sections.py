"""The sections of a report about draws: ArviZ's diagnostics, calibration, prior sensitivity."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from pyro_bayesprune import plots
from pyro_bayesprune.diagnostics import conversion, statistics, thresholds
from pyro_bayesprune.experiments.loading import Run
from pyro_bayesprune.reporting import flags
from pyro_bayesprune.reporting.html import Panel, Picture, Table, picture, shown, svg, table_of
from pyro_bayesprune.reporting.run_sections import LONG, detailed


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
                    svg(plots.traces(frame), alt),
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
        figure = plots.class_frequencies(frame)
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
        f"rhat at most {thresholds.GOOD_RHAT}, ESS above {thresholds.GOOD_ESS}, no divergence, "
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
        if run.folder and (run.folder / conversion.FILE).exists():
            idata = conversion.load(run.folder / conversion.FILE)
            kinds.setdefault(told["approximation"], {})[run.title] = idata
    tables = []
    for kind, loaded in kinds.items():
        try:
            frame = statistics.compare(loaded)
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
    return float(run.metrics.get("achieved_sparsity") or 0.0)


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
    content.append(picture(plots.reliability(table), caption, alt, table))
    table = _joined(runs, "rejection").drop(columns="sparsity")
    alt = f"Accuracy when doubtful inputs are refused: at best {table['accuracy'].max():.2%}."
    content.append(picture(plots.rejection(table), "Accuracy against rejection", alt, table))
    for run in runs[:4]:
        shift = pd.DataFrame(run.analysis["shift"])
        alt = f"{run.title}: accuracy falls to {shift['accuracy'].min():.1%} under shift; entropy "
        alt += f"rises to {shift['entropy'].max():.2f} nats."
        content.append(picture(plots.shifts(shift), f"{run.title}: shifted inputs", alt, shift))
    foreign = _joined(runs, "foreign")
    if len(foreign):
        content.append(table_of(foreign, "AUROC of entropy for telling foreign inputs"))
    if scores["sparsity"].nunique() > 1:
        kinds = scores["network"].str.rsplit(", ", n=1).str[-1]
        figure = plots.calibration_by_sparsity(scores.assign(network=kinds))
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
    done = flags.finished(runs)
    rows = [
        {
            "run": run.title,
            "prior": run.settings.get("prior"),
            "scale": run.settings.get("prior_scale"),
            "steps that the prior alone decided": run.metrics.get("prior_decided"),
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
