"""Compare policies of pruning on validation data, for the choice of the default.

    python reports/default/screen.py

runs what is missing and adds it to the store policies/ (results.csv, histories.csv.gz). Run folders
are written to the folder runs/. Only validation results may inform the choice.
"""

from pathlib import Path
from typing import Any

import torch

from pyro_bayesprune.experiments.config import Config
from pyro_bayesprune.experiments.grids import Outcome, grid
from pyro_bayesprune.experiments.results import known_ids, record

FOLDER = Path(__file__).parent / "policies"
RUNS = Path("runs")
EPOCHS = {"digits": 25, "mnist": 8, "fashion_mnist": 8, "cifar10": 8}
SEEDS = {"digits": 5, "mnist": 1, "fashion_mnist": 1, "cifar10": 1}
SPARSITIES = (0.98, 0.9)
MAGNITUDE = {"objective": "mle", "gate": "always"}
GLOBAL = {"gate": "always", "scope": "global"}
FAN_IN = GLOBAL | {"prior": "fan_in_normal"}
PER_DATUM = GLOBAL | {"prior": "normal_per_datum"}
PRIORS: dict[str, dict[str, Any]] = {
    "magnitude": MAGNITUDE,
    "magnitude, one ranking": MAGNITUDE | GLOBAL,
    "N(0, 0.15² · 50,000/N)": PER_DATUM | {"prior_scale": 0.15},
    "N(0, 0.2² · 50,000/N)": PER_DATUM | {"prior_scale": 0.2},
    "N(0, 0.3² · 50,000/N)": PER_DATUM,
    "N(0, 0.45² · 50,000/N)": PER_DATUM | {"prior_scale": 0.45},
    "N(0, 0.1²)": GLOBAL | {"prior_scale": 0.1},
    "N(0, 0.3²)": GLOBAL,
    "N(0, 1)": GLOBAL | {"prior_scale": 1.0},
    "N(0, 1/fan-in)": FAN_IN | {"prior_scale": 1.0},
    "N(0, 10/fan-in)": FAN_IN | {"prior_scale": 10**0.5},
    "N(0, 100/fan-in)": FAN_IN | {"prior_scale": 10.0},
    "scales by evidence": GLOBAL | {"prior": "evidence_normal"},
}

DEFAULT = PER_DATUM | {"gate": "retain"}
POLICIES: dict[str, dict[str, Any]] = {
    "always": PER_DATUM,
    "retain half of the gain": DEFAULT,
    "gate at the projection": DEFAULT | {"gate": "propose"},
    "gate at the conditioned point": DEFAULT | {"gate": "propose", "judge": "condition"},
    "survivors conditioned": DEFAULT | {"gate": "propose", "update": "condition"},
    "always, one shot": PER_DATUM | {"schedule": "one_shot"},
    "retain, one shot": DEFAULT | {"schedule": "one_shot"},
    "always, opd": PER_DATUM | {"criterion": "opd"},
}


def configurations(policies: dict[str, dict[str, Any]]) -> list[Config]:
    """Return the configurations of policies on all data sets."""
    return [
        Config(dataset=dataset, epochs=epochs, sparsity=sparsity, seed=seed, **policy)
        for sparsity in SPARSITIES
        for dataset, epochs in EPOCHS.items()
        for seed in range(SEEDS[dataset])
        for policy in policies.values()
    ]


def main() -> None:
    """Run what is missing."""
    torch.set_num_threads(1)

    def store(outcome: Outcome) -> None:
        print(outcome.status, outcome.config.title, f"{outcome.seconds:.0f} s", flush=True)
        if outcome.status == "done":
            record(FOLDER, RUNS / outcome.config.id)

    grid(configurations(PRIORS | POLICIES), out=RUNS, known=known_ids(FOLDER), watch=store)


if __name__ == "__main__":
    main()
