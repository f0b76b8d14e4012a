"""The demonstration behind ``make demo``: four ways to train one network on the digits."""

from pathlib import Path

import pandas as pd

from pyro_bayesprune import plots
from pyro_bayesprune.experiments.config import Config, configure
from pyro_bayesprune.experiments.loading import Run
from pyro_bayesprune.experiments.running import run

RUNS: dict[str, Config] = {
    "unpruned": configure(method="unpruned"),
    "magnitude": configure(method="magnitude", sparsity=0.9),
    "bayes_magnitude": configure(method="bayes_magnitude", sparsity=0.9),
    "default": configure(),
}
FOLDER = Path("runs/demo")


def comparison(results: dict[str, Run]) -> pd.DataFrame:
    """Return a row a run: accuracy, NLL (nats an example), sparsity, compression, decisions."""
    columns = {
        "test accuracy": "test_accuracy",
        "test NLL": "test_loss",
        "sparsity": "achieved_sparsity",
        "compression": "compression_ratio",
        "pruned": "pruned",
        "refused": "refused",
        "unchanged": "unchanged",
        "seconds": "seconds",
    }
    rows = {
        name: {told: result.metrics[key] for told, key in columns.items()}
        for name, result in results.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def main() -> None:
    """Run the demonstration, print its table and save its figure."""
    results = {name: run(config, out=FOLDER) for name, config in RUNS.items()}
    print("\n512-512-512 network on 1,797 handwritten digits of 8x8 pixels, 25 epochs, seed 0\n")
    print(comparison(results).round(4).to_string())
    path = FOLDER / "learning_curves.png"
    plots.learning_curves(results["default"].history).savefig(path, dpi=150)
    print(f"\nThe default's log Bayes factors, epoch by epoch: {path}")
    print(f"Every decision again: bayesprune show --verify {results['default'].folder}")


if __name__ == "__main__":
    main()
