"""Compare the default with plain magnitude pruning on test data, and write the page.

    python reports/default/make.py

runs what is missing (folder runs/), adds it to the store comparison/, and writes README.md and
default.png. Both
methods have the same schedule, epochs, scope, initial weights and data order for each seed.
"""

from collections.abc import Iterator
from pathlib import Path

from page import figure, page

from pyro_bayesprune.experiments.config import Config, configure
from pyro_bayesprune.experiments.grids import Outcome, grid
from pyro_bayesprune.experiments.results import known_ids, record

FOLDER = Path(__file__).parent
RUNS = Path("runs")
EPOCHS = {("digits", "fcn"): 25, ("mnist", "cnn"): 4}  # otherwise 8
SEEDS = {
    ("digits", "fcn"): 5,
    ("mnist", "fcn"): 5,
    ("fashion_mnist", "fcn"): 5,
    ("cifar10", "fcn"): 3,
    ("mnist", "cnn"): 2,
}
METHODS = ("magnitude", None)  # None is the default


def configurations() -> Iterator[Config]:
    """Yield the configurations, first seeds first."""
    for seed in range(max(SEEDS.values())):
        for pair, seeds in SEEDS.items():
            for sparsity in (0.9, 0.98) if pair[1] == "fcn" and seed < seeds else (0.9,):
                for method in METHODS if seed < seeds else ():
                    yield configure(
                        method=method,
                        dataset=pair[0],
                        network=pair[1],
                        sparsity=sparsity,
                        seed=seed,
                        epochs=EPOCHS.get(pair, 8),
                    )


def run_missing() -> None:
    """Run the configurations that are not in the store."""

    def store(outcome: Outcome) -> None:
        print(outcome.status, outcome.config.title, f"{outcome.seconds:.0f} s", flush=True)
        if outcome.status == "done":
            record(FOLDER / "comparison", RUNS / outcome.config.id)

    known = known_ids(FOLDER / "comparison")
    grid(list(configurations()), out=RUNS, jobs=2, threads=1, known=known, watch=store)


def main() -> None:
    """Run what is missing and write the page."""
    run_missing()
    (FOLDER / "README.md").write_text(page(), encoding="utf-8")
    figure().savefig(FOLDER / "default.png", dpi=110)


if __name__ == "__main__":
    main()
