"""Runs that never ran: for the report, and for the paper's table and figures."""

import numpy as np
import pandas as pd

import pyro_bayesprune as bp
from pyro_bayesprune.experiments.config import configure
from pyro_bayesprune.experiments.loading import Run

PAPER_METHODS = (
    "unpruned",
    "bayes_unpruned",
    "random",
    "magnitude",
    "bayes_random",
    "bayes_magnitude",
)


def table_row(dataset, method, sparsity, seed, accuracy, **settings):
    """A row of results, as the paper's table needs it."""
    level = {} if "unpruned" in method else {"sparsity": sparsity}
    config = configure("paper", method, dataset=dataset, seed=seed, **level, **settings)
    values = {k: str(v) if isinstance(v, list) else v for k, v in config.to_dict().items()}
    return values | {
        "id": config.id,
        "method": method,
        "num_train": 100,
        "test_accuracy": accuracy,
        "achieved_sparsity": config.sparsity,
        "compression_ratio": 1 / (1 - config.sparsity),
        "theoretical_speedup": 1.0,
    }


def table_runs(dataset, method, sparsity, accuracies, **settings):
    """Runs of seeds 0, 1, … with these accuracies."""
    rows = [
        table_row(dataset, method, sparsity, s, a, **settings) for s, a in enumerate(accuracies)
    ]
    return pd.DataFrame(rows)


def stored_history(run):
    """A made-up history of a run."""
    epochs, pruned = np.arange(1, 4), run["sparsity"] > 0
    likelihood, prior = -100.0 / epochs - 20 * pruned, np.full(3, -10.0 + 5 * pruned)
    return pd.DataFrame(
        {
            "id": run["id"],
            "level": run["sparsity"],
            **{name: run[name] for name in ("dataset", "network", "method", "seed")},
            "epoch": epochs,
            "train_loss": 1 / epochs + 0.1 * run["seed"],
            "validation_loss": np.nan,
            "test_loss": 1.1 / epochs,
            "log_likelihood_after": likelihood,
            "log_prior_after": prior,
            "log_joint_after": likelihood + prior,
            "log_likelihood_ratio": [-20.0 * pruned, 0, 0],
            "log_prior_ratio": [5.0 * pruned, 0, 0],
            "log_bf": [-15.0 * pruned, 0, 0],
            "bf_per_datum": np.exp([-0.15 * pruned, 0, 0]),
            "log_threshold": -10.5,
            "decision": ["pruned" if pruned else "unchanged", "unchanged", "unchanged"],
            "sparsity": run["sparsity"],
            "sparsity/fc1.weight": run["sparsity"],
        }
    )


def history(sparsity=0.9):
    """The history of a run of two epochs."""
    return pd.DataFrame(
        {
            "epoch": [1, 2],
            "train_loss": [1.0, 0.5],
            "validation_loss": [1.1, 0.7],
            "test_loss": [1.1, 0.7],
            "log_bf": [-10.0, 0.0],
            "log_likelihood_ratio": [-12.0, 0.0],
            "log_prior_ratio": [2.0, 0.0],
            "log_threshold": [-11.0, -11.0],
            "decision": ["pruned", "unchanged"],
            "prior_decides": [True, False],
            "tries": [1, 0],
            "sparsity": [sparsity, sparsity],
        }
    )


def a_run(**changes):
    """A finished run as plain values; ``changes`` go to its settings or its result."""
    config = bp.configure("default", epochs=2).to_dict()
    result = {
        "id": "0123456789abcdef", "method": "custom", "test_accuracy": 0.95, "test_loss": 0.2,
        "test_brier": 0.1, "test_ece": 0.02, "achieved_sparsity": 0.9, "parameters": 1000,
        "compression_ratio": 9.0, "theoretical_speedup": 9.0, "num_classes": 10,
        "num_train": 1000, "layer_sparsity": {"fc1.weight": 0.9}, "dead_units": {"fc1.weight": 3},
        "collapsed_layers": [], "prior_decided": 1, "versions": {"torch": "2"},
        "machine": {"cpus": 2}, "commit": "abc", "finished": "2026-01-01", "epochs": 2,
        "seconds": 3.0,
    }  # fmt: skip
    for name, value in changes.items():
        (config if name in config else result)[name] = value
    return Run(config, result, history(result["achieved_sparsity"]))
