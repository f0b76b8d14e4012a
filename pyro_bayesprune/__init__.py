"""Bayesian pruning of neural networks on Pyro (Mathew & Rowe), and what goes beyond the paper."""

from importlib import import_module
from typing import Any

from pyro_bayesprune import criteria, data, metrics, networks, priors
from pyro_bayesprune.data import Dataset, load_dataset
from pyro_bayesprune.model import BayesianModule, categorical, gaussian, pruned
from pyro_bayesprune.networks import CNN, FCN
from pyro_bayesprune.posterior import BayesFactor, LogJoint, log_joint
from pyro_bayesprune.pruning import Pruning, prune_step
from pyro_bayesprune.training import Fit, fit, train

_LAZY = ("plots",)


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Import the modules that draw on first use: Matplotlib and ArviZ are slow to load."""
    if name in _LAZY:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "CNN",
    "FCN",
    "BayesFactor",
    "BayesianModule",
    "Dataset",
    "Fit",
    "LogJoint",
    "Pruning",
    "categorical",
    "criteria",
    "data",
    "fit",
    "gaussian",
    "load_dataset",
    "log_joint",
    "metrics",
    "networks",
    "plots",
    "priors",
    "prune_step",
    "pruned",
    "train",
]
