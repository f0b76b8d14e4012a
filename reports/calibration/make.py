"""Simulation-based calibration of the samplers: python reports/calibration/make.py.

Talts et al. (2018): if weights are drawn from the prior and data from the likelihood, the rank of a
weight among draws from its posterior is uniform. The network is one linear layer with a gaussian
likelihood and orthogonal inputs, in which every sampler is exact; one of its weights is pruned.
"""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import nn

import pyro_bayesprune as bp
from pyro_bayesprune.inference.draws import Method
from pyro_bayesprune.inference.samplers import posterior_draws

HERE = Path(__file__).parent
EXAMPLES, INPUTS, NOISE, PRIOR = 20, 4, 0.7, 1.0
DRAWS, THINNING, WARMUP = 27, 3, 60  # 9 draws of a chain, nearly independent: 10 possible ranks
MASK = torch.tensor([[True, False, True, True]])


def ranks(method: str, simulations: int) -> np.ndarray:
    """Return the ranks (simulations, 3) of the surviving weights among 9 posterior draws."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(EXAMPLES, INPUTS, generator=generator, dtype=torch.float64)
    x = torch.linalg.qr(noise).Q * EXAMPLES**0.5
    net = nn.Linear(INPUTS, 1, bias=False).double()
    model = bp.BayesianModule(net, bp.priors.normal(PRIOR), EXAMPLES, bp.gaussian(NOISE))
    result = []
    for seed in range(simulations):
        truth = PRIOR * torch.randn(1, INPUTS, generator=generator, dtype=torch.float64) * MASK
        noise = torch.randn(EXAMPLES, 1, generator=generator, dtype=torch.float64)
        y = x @ truth.mT + NOISE * noise
        mode = MASK * (x.mT @ y).mT / (EXAMPLES + NOISE**2 / PRIOR**2)
        fit = SimpleNamespace(model=model, weights={"weight": mode}, masks={"weight": MASK})
        sizes = {"draws": DRAWS, "chains": 1, "warmup": WARMUP, "seed": seed, "progress": False}
        draws = posterior_draws(fit, (x, y), method, **sizes).values[0, ::THINNING]
        result.append((draws < truth[MASK]).sum(0).numpy())
    return np.stack(result)


def table(simulations: dict[str, int]) -> pd.DataFrame:
    """Return the counts of ranks of each method, and the p-value of the test of equal counts."""
    rows = []
    for method, number in simulations.items():
        counts = np.bincount(ranks(method, number).ravel(), minlength=DRAWS // THINNING + 1)
        p = stats.chisquare(counts).pvalue
        rows += [(method, rank, count, p) for rank, count in enumerate(counts)]
    return pd.DataFrame(rows, columns=["method", "rank", "count", "p_value"])


def figure(counts: pd.DataFrame) -> plt.Figure:
    """Draw the counts of ranks with the interval that contains 99% of the counts."""
    groups = counts.groupby("method", sort=False)
    result, axes = plt.subplots(1, len(groups), figsize=(13, 3.2), layout="constrained")
    for ax, (method, part) in zip(axes, groups, strict=True):
        total, bins = part["count"].sum(), len(part)
        low, high = stats.binom.ppf((0.005, 0.995), total, 1 / bins)
        ax.axhspan(low, high, color="0.85")
        ax.bar(part["rank"], part["count"], color="#0072b2")
        p = part["p_value"].iloc[0]
        ax.set(title=f"{method} (p = {p:.2f})", xlabel="rank of the true weight")
    axes[0].set_ylabel("simulated data sets × weights")
    return result


def main(laplace: str = "200", nuts: str = "60") -> None:
    """Write ranks.csv and ranks.png for a number of simulated data sets by kind of sampler."""
    counts = table({m: int(nuts if "nuts" in m else laplace) for m in get_args(Method)})
    counts.to_csv(HERE / "ranks.csv", index=False)
    figure(counts).savefig(HERE / "ranks.png", dpi=100)
    print(counts.groupby("method")["p_value"].first().to_string())


if __name__ == "__main__":
    main(*sys.argv[1:])
