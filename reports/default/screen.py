"""Compare policies of pruning on validation data, for the choice of the default.

    python reports/default/screen.py

runs what is missing and adds it to the store policies/ (results.csv, histories.csv.gz). Run folders
are written to the folder runs/. Only validation results may inform the choice.
"""

from pathlib import Path
from typing import Any

import torch

from pyro_bayesprune.experiments.config import Config, configure
from pyro_bayesprune.experiments.grids import Outcome, grid
from pyro_bayesprune.experiments.results import known_ids, record

FOLDER = Path(__file__).parent / "policies"
RUNS = Path("runs")
EPOCHS = {"digits": 25, "fashion_mnist": 8, "mnist": 8, "cifar10": 8}
SPARSITIES = (0.9, 0.98)
ALWAYS, GLOBAL = {"gate": "always"}, {"scope": "global"}
POLICIES: dict[str, dict[str, Any]] = {
    "magnitude": ALWAYS | {"objective": "mle"},
    "magnitude, one ranking": ALWAYS | GLOBAL | {"objective": "mle"},
    "gate at the projection": {},
    "gate at the conditioned point": GLOBAL | {"judge": "condition"},
    "survivors conditioned": GLOBAL | {"update": "condition"},
    "prior": ALWAYS,
    "prior, one ranking": ALWAYS | GLOBAL,
    "prior, one ranking, opd": ALWAYS | GLOBAL | {"criterion": "opd"},
}


def configurations() -> list[Config]:
    """Return all configurations; those of one data set follow each other."""
    return [
        configure(dataset=dataset, epochs=epochs, sparsity=sparsity, **policy)
        for dataset, epochs in EPOCHS.items()
        for sparsity in SPARSITIES
        for policy in POLICIES.values()
    ]


def main() -> None:
    """Run what is missing."""
    torch.set_num_threads(1)

    def store(outcome: Outcome) -> None:
        print(outcome.status, outcome.config.title, f"{outcome.seconds:.0f} s", flush=True)
        if outcome.status == "done":
            record(FOLDER, RUNS / outcome.config.id)

    grid(configurations(), out=RUNS, known=known_ids(FOLDER), watch=store)


if __name__ == "__main__":
    main()
