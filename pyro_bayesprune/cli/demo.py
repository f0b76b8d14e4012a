"""The demonstration of ``make demo``: four ways to train and prune one network on digits."""

from pathlib import Path

import pandas as pd

from pyro_bayesprune import plots
from pyro_bayesprune.experiments.config import configure
from pyro_bayesprune.experiments.running import run

CONFIGS = {
    "unpruned": configure(method="unpruned"),
    "magnitude": configure(method="magnitude", sparsity=0.9),
    "bayes_magnitude": configure(method="bayes_magnitude", sparsity=0.9),
    "default": configure(),
}
COLUMNS = ["test_accuracy", "test_loss", "achieved_sparsity", "compression_ratio"]
COLUMNS += ["pruned", "refused", "unchanged", "seconds"]
FOLDER = Path("runs/demo")


def main() -> None:
    """Run the demonstration, print a table of the results and save a figure."""
    runs = {name: run(config, out=FOLDER) for name, config in CONFIGS.items()}
    table = pd.DataFrame([result.metrics for result in runs.values()], index=list(runs))
    print("\n512-512-512 network on 1,797 handwritten digits of 8x8 pixels, 25 epochs, seed 0\n")
    print(table[COLUMNS].round(4).to_string())
    path = FOLDER / "learning_curves.png"
    plots.learning_curves(runs["default"].history).savefig(path, dpi=150)
    print(f"\nFigure of the log Bayes factors of the default in each epoch: {path}")
    print(f"To verify each decision: bayesprune show --verify {runs['default'].folder}")


if __name__ == "__main__":
    main()
