"""The demonstration of ``make demo``: five ways to train and prune one network on digits."""

from pathlib import Path

import pandas as pd

from pyro_bayesprune import plots
from pyro_bayesprune.experiments.config import configure
from pyro_bayesprune.experiments.running import run

CONFIGS = {
    "unpruned": configure(method="unpruned"),
    "magnitude": configure(method="magnitude", sparsity=0.9, scope="layer"),
    "bayes_magnitude": configure(method="bayes_magnitude", sparsity=0.9, scope="layer"),
    "default": configure(sparsity=0.9),
    "auto": configure(sparsity="auto"),
}
COLUMNS = {
    "test_accuracy": "accuracy",
    "test_loss": "NLL",
    "test_ece": "ECE",
    "achieved_sparsity": "zeros",
    "pruned": "steps that pruned",
    "refused": "refused",
    "seconds": "seconds",
}
FOLDER = Path("runs/demo")
CONCLUSIONS = """
At 90% zeros, the default has a test NLL (negative log likelihood, in nats for each image) of
{default:.3f}. Magnitude pruning of each layer, as in the paper but with our schedule, has
{magnitude:.3f} without a prior and {bayes_magnitude:.3f} with the prior N(0, 0.3²).
With sparsity="auto" the evidence pruned {zeros:.1%} of the weights without a target, at a test
NLL of {auto:.3f}.
The test set has 360 images and this is one seed: reports/default has more data sets and seeds, and
magnitude pruning with one ranking for all layers, as in the default."""


def main() -> None:
    """Run the demonstration, print a table of the results and save a figure."""
    runs = {name: run(config, out=FOLDER) for name, config in CONFIGS.items()}
    table = pd.DataFrame([result.metrics for result in runs.values()], index=list(runs))
    print("\n512-512-512 network on 1,797 handwritten digits of 8x8 pixels, 25 epochs, seed 0\n")
    print(table[list(COLUMNS)].rename(columns=COLUMNS).round(4).to_string())
    conclusions = CONCLUSIONS.format(zeros=table["achieved_sparsity"]["auto"], **table["test_loss"])
    print(conclusions)
    path = FOLDER / "learning_curves.png"
    plots.learning_curves(runs["default"].history).savefig(path, dpi=150)
    print(f"\nFigure of the log Bayes factors of the default in each epoch: {path}")
    print(f"To verify each decision: bayesprune show --verify {runs['default'].folder}")


if __name__ == "__main__":
    main()
