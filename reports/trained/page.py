"""The page of `make.py`: tables, figure and text from prunings.csv."""

import math
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from scipy.stats import spearmanr

from pyro_bayesprune._utils.tables import table_markdown

NAMES = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST", "cifar10": "CIFAR-10"}
WAYS = {
    "project": "projection",
    "sparsegpt": "SparseGPT columns",
    "condition": "conditioning",
    "condition, one epoch": "conditioning, then one epoch",
}
BETA = 0.95
TEXT = """# Pruning trained networks

A trained network is pruned once, by global magnitude, without training. The survivors stay as they
are (projection), or they move to their posterior mean given that the pruned weights are zero
(conditioning, `bp.prune`). The third way is the column-wise update of SparseGPT (Frantar &
Alistarh, 2023) with the same masks, layers in order and 1% damping, as a reference without a prior.
The last column trains the conditioned network for one more epoch under its masks.

The networks are the library's FCN (512-512-512) and CNN with the prior N(0, 0.3²), trained for
{epochs} epochs, seed {seed}. Curvature is estimated from 2,048 training examples. Cells show test
accuracy and test negative log likelihood (nats). There is one seed. A 95% binomial interval of an
accuracy of 0.97 (0.86, 0.50) on 10,000 test examples is ±0.003 (±0.007, ±0.010).

{results}

{findings}

![Test negative log likelihood by sparsity](trained.png)

## What the gate and the evidence say

The table shows the joint log Bayes factor of the pruned over the trained network for each training
example, and the ratio of their Laplace evidences, which adds the change of the Occam factor
(`Conditioning.occam_gain`). The default gate accepts a log Bayes factor above ln {beta} =
{threshold:.4f} per example. "auto" is the level that `bp.prune(..., "auto")` chose. Seconds are for
pruning alone, on one thread of a machine on which other programs ran.

{judged}

## Does the Bayes factor predict what training recovers?

After the pruning step, each network was trained for another epoch, from its projection. The table
compares the log Bayes factor of the step, at the projection and at the conditioned point, with the
change of the log joint from before the step to after that epoch. The prunings are those of the FCN
to {levels} zeros, after {checkpoints} epochs of training (CIFAR-10: only after the last one). "Same
decision" is the share of prunings for which the gate decides as it would have decided after the
epoch.

{predictions}

{conclusion}

Made by `python reports/trained/make.py`; all numbers are in [prunings.csv](prunings.csv).
{versions}; {machine}; commit {commit}.
"""

FINDINGS = """Without training, conditioning loses far less than projection at 95 and 98%, and at
90% of the FCN. It also loses less there than the SparseGPT columns, which move only weights to the
right of a pruned one. At 90% of the CNN the ways differ little on MNIST and Fashion-MNIST. With one
more epoch of training under the masks the advantage is gone: the projected FCNs are then as
accurate as the conditioned ones, and slightly better on CIFAR-10 (the rows "project, one epoch" of
prunings.csv)."""


def page(table: pd.DataFrame, machine: dict[str, Any]) -> str:
    """Return the page.

    Args:
        table: the rows of prunings.csv.
        machine: versions, machine and commit of the measurement.
    """
    predictions = _predictions(table)
    return TEXT.format(
        epochs=table["epoch"].max(),
        seed=0,
        results=results_table(table),
        findings=FINDINGS,
        beta=BETA,
        threshold=math.log(BETA),
        judged=judged_table(table),
        levels=", ".join(f"{level:.0%}" for level in sorted(predictions["sparsity"].unique())),
        checkpoints=", ".join(map(str, sorted(predictions["epoch"].unique()))),
        predictions=predictions_table(table),
        conclusion=conclusion(predictions),
        versions=", ".join(f"{name} {number}" for name, number in machine["versions"].items()),
        machine=", ".join(f"{name} {value}" for name, value in machine["machine"].items()),
        commit=machine["commit"],
    )


def cell(row: pd.Series | None) -> str:
    """Return accuracy and NLL."""
    if row is None:
        return "–"
    return f"{row['test_accuracy']:.4f}, {row['test_nll']:.3f}"


def results_table(table: pd.DataFrame) -> str:
    """Return the test results of the networks at the end of their training."""
    rows = []
    for (network, dataset), group in _last(table).groupby(["network", "dataset"], sort=False):
        dense = _row(group, "dense", 0.0)
        for level in _levels(group):
            cells = [cell(_row(group, way, level)) for way in WAYS]
            pair = f"{network.upper()}, {NAMES[dataset]}"
            rows.append([pair, f"{level:.0%}", cell(dense), *cells])
    return table_markdown(["network, data", "zeros", "trained", *WAYS.values()], rows)


def judged_table(table: pd.DataFrame) -> str:
    """Return what the joint Bayes factor and the evidence say of each conditioned network."""
    rows = []
    for (network, dataset), group in _last(table).groupby(["network", "dataset"], sort=False):
        dense = _row(group, "dense", 0.0)
        for level in _levels(group):
            projected, row = _row(group, "project", level), _row(group, "condition", level)
            factors = [r["log_joint"] - dense["log_joint"] for r in (projected, row)]
            decisions = ["yes" if f > math.log(BETA) else "no" for f in factors]
            rows.append(
                [f"{network.upper()}, {NAMES[dataset]}", f"{level:.0%}"]
                + [f"{f:.4f} ({d})" for f, d in zip(factors, decisions, strict=True)]
                + [f"{factors[1] + row['occam']:+.3f}", f"{row['seconds']:.0f}"]
            )
        for _, row in group[group["way"] == "auto"].iterrows():
            factor = row["log_joint"] - dense["log_joint"]
            pair = f"{network.upper()}, {NAMES[dataset]}, auto"
            rows.append(
                [pair, f"{row['sparsity']:.1%}", "", f"{factor:.4f}", "", f"{row['seconds']:.0f}"]
            )
    head = ["network, data", "zeros", "log BF, projection (accepted)",
            "log BF, conditioning (accepted)", "log evidence ratio", "seconds"]  # fmt: skip
    return table_markdown(head, rows)


def predictions_table(table: pd.DataFrame) -> str:
    """Return how well each Bayes factor predicts the log joint after another epoch."""
    frame = _predictions(table)
    rows = []
    for dataset, group in [*frame.groupby("dataset", sort=False), ("all", frame)]:
        for way, name in (("project", "projection"), ("condition", "conditioned point")):
            rank = spearmanr(group[way], group["after"]).statistic
            same = ((group[way] > math.log(BETA)) == (group["after"] > math.log(BETA))).mean()
            label = NAMES.get(str(dataset), "all")
            rows.append([label, name, str(len(group)), f"{rank:.2f}", f"{same:.0%}"])
    head = ["data", "log BF at the", "prunings", "Spearman's ρ", "same decision"]
    return table_markdown(head, rows)


def conclusion(frame: pd.DataFrame) -> str:
    """Return what the predictions of all prunings say."""
    after = frame["after"] > math.log(BETA)
    same = [((frame[way] > math.log(BETA)) == after).mean() for way in ("project", "condition")]
    ranks = [spearmanr(frame[way], frame["after"]).statistic for way in ("project", "condition")]
    return (
        f"After the epoch, {after.mean():.0%} of the networks pass the gate, since training also\n"
        f"improves them. The gate at the conditioned point agrees with this in {same[1]:.0%} of\n"
        f"the prunings, the gate at the projection in {same[0]:.0%}. As a ranking, neither Bayes\n"
        f"factor predicts the result well (ρ = {ranks[1]:.2f} and {ranks[0]:.2f})."
    )


def figure(table: pd.DataFrame) -> Figure:
    """Draw the test NLL of the FCN by sparsity, a panel for each data set."""
    names = WAYS | {"project, one epoch": "projection, then one epoch"}
    chosen = _last(table)[lambda t: (t["network"] == "fcn") & t["way"].isin(names)]
    chosen = chosen.assign(way=chosen["way"].map(names), data=chosen["dataset"].map(NAMES))
    chosen = chosen.assign(zeros=chosen["sparsity"].map("{:.0%}".format))
    with sns.axes_style("whitegrid"):
        grid = sns.relplot(
            chosen, x="zeros", y="test_nll", hue="way", style="way", col="data", kind="line",
            markers=True, dashes=False, height=3.2, aspect=0.95, facet_kws={"sharey": False},
        )  # fmt: skip
    grid.set(yscale="log").set_titles("{col_name}")
    grid.set_axis_labels("zeros", "test NLL (nats, log scale)")
    assert grid.legend is not None
    grid.legend.set_title("")
    dense = _last(table)[lambda t: (t["network"] == "fcn") & (t["way"] == "dense")]
    for axes, value in zip(grid.axes.flat, dense["test_nll"], strict=True):
        axes.axhline(value, color="0.4", linestyle="--", linewidth=1)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    grid.figure.text(0.01, 0.01, "dashed: the trained network", fontsize=8, color="0.4")
    return grid.figure


def _predictions(table: pd.DataFrame) -> pd.DataFrame:
    """Return the change of the log joint per example at each point, a row for each pruning."""
    fcn = table[table["network"] == "fcn"]
    keys = ["dataset", "epoch", "sparsity"]
    wide = fcn.pivot_table("log_joint", keys, "way", sort=False)
    dense = fcn[fcn["way"] == "dense"].set_index(keys[:2])["log_joint"]
    before = dense.reindex(wide.index.droplevel(2)).to_numpy()
    frame = wide.sub(before, axis=0).rename(columns={"project, one epoch": "after"})
    return frame.dropna(subset=["project", "condition", "after"]).reset_index()


def _last(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["epoch"] == table["epoch"].max()]


def _levels(group: pd.DataFrame) -> list[float]:
    return sorted(group[group["way"] == "project"]["sparsity"].unique())


def _row(group: pd.DataFrame, way: str, level: float) -> pd.Series | None:
    rows = group[(group["way"] == way) & (group["sparsity"] == level)]
    return rows.iloc[0] if len(rows) else None
