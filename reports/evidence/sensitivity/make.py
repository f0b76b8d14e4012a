"""Make the tables and the figure of this folder: python reports/evidence/sensitivity/make.py.

sweep.csv and the left panel of the figure summarise the runs in results.csv, whose command is in
reports/evidence/README.md. lindley.csv and the right panel show one network on digits (seed 0) at
its posterior mode under the prior N(0, 1). The 90% smallest weights are set to zero, and the Bayes
factors are computed for priors of different scales. Only the scale of the prior changes.
"""

import runpy
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure

import pyro_bayesprune as bp
from pyro_bayesprune.experiments.statistics import summary
from pyro_bayesprune.inference import curvature, evidence
from pyro_bayesprune.inference.savage_dickey import savage_dickey
from pyro_bayesprune.pruning.masks import propose_masks

HERE = Path(__file__).parent
WIDTHS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
LEVEL = 0.9
log_factors = runpy.run_path(str(HERE.parent / "make.py"))["log_factors"]


def sweep() -> pd.DataFrame:
    """Return sparsity and accuracies over seeds, by target sparsity, prior and prior scale."""
    measures = ["achieved_sparsity", "validation_accuracy", "test_accuracy"]
    columns = ["sparsity", "prior", "prior_scale", "measure", "mean", "std", "seeds"]
    return summary(bp.load_results(HERE), measures)[columns]


def lindley() -> pd.DataFrame:
    """Return log Bayes factors (nats) of pruning the same weights, by scale of the prior."""
    data = bp.load_dataset("digits")
    torch.manual_seed(0)
    net = bp.FCN(data.shape, data.num_classes, (128, 128, 128))

    def model(width: float) -> bp.BayesianModule:
        return bp.BayesianModule(net, bp.priors.normal(width), data.num_train)

    unpruned = bp.Pruning(sparsity=0.0)
    fit = bp.fit(model(1.0), data, pruning=unpruned, epochs=30, seed=0, progress=False)
    scores = {name: fit.weights[name].abs() for name in fit.masks}
    masks = propose_masks(scores, fit.weights, fit.masks, LEVEL, "layer")
    return pd.DataFrame(
        {"width": width, "favoured_alone": _favoured(model(width), fit, data)}
        | log_factors(model(width), fit.weights, masks, data)
        for width in WIDTHS
    )


def _favoured(model: bp.BayesianModule, fit: bp.Fit, data: bp.Dataset) -> float:
    """Return the share of weights with a positive Savage-Dickey factor of their own."""
    precision = evidence.marginal_precision(model, fit.weights, data)
    delta = curvature.prior_precision(model, fit.weights)
    factors = [savage_dickey(fit.weights[name], precision[name], delta[name]) for name in fit.masks]
    return sum(int((f > 0).sum()) for f in factors) / sum(f.numel() for f in factors)


def figure(swept: pd.DataFrame, widths: pd.DataFrame) -> Figure:
    """Draw the results of sparsity="auto" (left), and the evidence for one pruning (right)."""
    result = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = result.subplots(1, 2)
    looks = {"achieved_sparsity": ("zeros", "--"), "test_accuracy": ("test accuracy", "-")}
    colours = {"normal": "C0", "evidence_normal": "C1"}
    auto = swept[(swept["sparsity"] == "auto") & swept["measure"].isin(list(looks))]
    for (prior, measure), rows in auto.groupby(["prior", "measure"]):
        name, line = looks[measure]
        values = (rows["prior_scale"].astype(float), rows["mean"], rows["std"])
        look = {"fmt": line, "marker": "o", "color": colours[prior], "capsize": 2}
        left.errorbar(*values, label=f"{name}, {prior}", **look)
    left.set(xscale="log", xlabel="σ of the prior", title='sparsity="auto", three seeds')
    for kind in ("joint", "laplace", "savage_dickey"):
        right.plot(widths["width"], widths[kind] / 1e3, marker="o", label=kind)
    right.axhline(0, color="grey", linewidth=0.8)
    title = f"the same weights, {LEVEL:.0%} zeroed"
    right.set(xscale="log", xlabel="σ of the prior", ylabel="log BF, 1000 nats", title=title)
    for axes in (left, right):
        axes.legend(fontsize=7, handlelength=3.5)
    return result


def main() -> None:
    """Write the tables and the figure."""
    swept, widths = sweep(), lindley()
    swept.to_csv(HERE / "sweep.csv", index=False, float_format="%.4f")
    widths.to_csv(HERE / "lindley.csv", index=False, float_format="%.5g")
    figure(swept, widths).savefig(HERE / "sensitivity.png", dpi=110)
    print(swept.to_string(), widths.to_string(), sep="\n")


if __name__ == "__main__":
    main()
