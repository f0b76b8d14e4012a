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
PRIOR = ALWAYS | GLOBAL
FAN_IN = PRIOR | {"prior": "fan_in_normal"}
POLICIES: dict[str, dict[str, Any]] = {
    "magnitude": ALWAYS | {"objective": "mle"},
    "magnitude, one ranking": PRIOR | {"objective": "mle"},
    "N(0, 0.1²)": PRIOR | {"prior_scale": 0.1},
    "N(0, 0.3²)": PRIOR,
    "N(0, 1)": PRIOR | {"prior_scale": 1.0},
    "N(0, 1/fan-in)": FAN_IN | {"prior_scale": 1.0},
    "N(0, 10/fan-in)": FAN_IN | {"prior_scale": 10**0.5},
    "N(0, 100/fan-in)": FAN_IN | {"prior_scale": 10.0},
    "N(0, 0.3²), a ranking for each layer": ALWAYS,
    "N(0, 0.3²), opd": PRIOR | {"criterion": "opd"},
    "N(0, 0.3²), gate at the projection": {},
    "N(0, 0.3²), gate at the conditioned point": GLOBAL | {"judge": "condition"},
    "N(0, 0.3²), survivors conditioned": GLOBAL | {"update": "condition"},
}


def configurations() -> list[Config]:
    """Return all configurations; policies that are slow come last."""
    return [
        configure(dataset=dataset, epochs=epochs, sparsity=sparsity, **policy)
        for policies in (list(POLICIES)[:8], list(POLICIES)[8:])
        for dataset, epochs in EPOCHS.items()
        for sparsity in SPARSITIES
        for policy in (POLICIES[name] for name in policies)
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
