"""The configurations of a grid: products of axes, the grid of the paper, and controls."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pyro_bayesprune._utils.checks import check_choice
from pyro_bayesprune.experiments.config import METHODS, Config, configure

PAPER: dict[str, tuple] = {
    "seed": (0, 1, 2, 3, 4),
    "network": ("fcn", "cnn"),
    "dataset": ("mnist", "fashion_mnist", "cifar10"),
    "method": tuple(METHODS),
    "sparsity": (0.25, 0.5, 0.75, 0.9, 0.99),
}
INPUTS = {"digits": 64, "mnist": 784, "fashion_mnist": 784, "cifar10": 3072}
CLASSES = 10  # of each of these data sets


def product(preset: str = "paper", **axes: Sequence[Any]) -> list[Config]:
    """Return all combinations of settings as configurations.

    The first axes vary slowest, and ``seed`` before all others. An interrupted grid is therefore
    complete for its first seeds. A method that does not prune occurs once for all sparsities.

    Args:
        preset: preset of the other settings.
        **axes: values for fields of `Config` and for ``method``.

    Example:
        >>> len(product(method=("unpruned", "magnitude"), sparsity=(0.5, 0.9), seed=(0, 1)))
        6
    """
    axes = {"seed": axes.pop("seed", (0,)), **axes}
    for name in axes.get("method", ()):
        check_choice("method", name, (*METHODS,))
    configs: dict[str, Config] = {}
    for values in itertools.product(*axes.values()):
        settings = dict(zip(axes, values, strict=True))
        method = settings.pop("method", None)
        if "sparsity" in METHODS.get(method or "", {}):
            settings.pop("sparsity", None)
        config = configure(preset, method, **settings)
        configs[config.id] = config
    return list(configs.values())


def controls(config: Config) -> dict[str, Config]:
    """Return the controls of a pruned FCN, which show the effect of each part of the method.

    Args:
        config: a pruned FCN on a built-in data set, for example by ``bayes_magnitude``.

    Raises:
        ValueError: for another network or data set, whose sizes are unknown, or for auto.
    """
    if config.network != "fcn" or config.dataset not in INPUTS or config.sparsity == "auto":
        raise ValueError(
            f"controls exist for an fcn on one of {', '.join(INPUTS)} with a sparsity that is a "
            f"number, got {config}"
        )
    map_ = replace(config, objective="map", criterion="magnitude", restart="no", scope="layer")
    base = replace(map_, gate="always")
    global_ = replace(base, scope="global")
    return {
        "always pruned, same prior": base,
        "gated: previous": replace(map_, gate="previous"),
        "gated: propose": replace(map_, gate="propose"),
        "no prior": replace(base, objective="mle"),
        "global": global_,
        "random, magnitude's layers": replace(global_, criterion="shuffled_magnitude"),
        "shuffled masks": replace(base, restart="shuffle"),
        "reinitialised": replace(base, restart="reinitialise"),
        "rewound": replace(base, restart="rewind"),
        "small dense": replace(base, sparsity=0.0, hidden=small_dense(config)),
    }


def small_dense(config: Config) -> tuple[int, ...]:
    """Return equal hidden widths of the dense FCN with as many weights as the pruned FCN.

    The width w of h layers solves (h - 1) w² + (inputs + classes) w = remaining weights.
    """
    widths = [INPUTS[config.dataset], *config.hidden, CLASSES]
    weights = sum(n * m for n, m in itertools.pairwise(widths))
    remaining = weights * (1 - float(config.sparsity))
    a, b = len(config.hidden) - 1, widths[0] + CLASSES
    width = remaining / b if a == 0 else (math.sqrt(b * b + 4 * a * remaining) - b) / (2 * a)
    return (max(1, round(width)),) * len(config.hidden)
