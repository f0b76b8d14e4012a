"""Which configurations a grid runs: products of axes, the paper's grid, controls."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pyro_bayesprune.experiments.config import METHODS, Config, configure

PAPER: dict[str, tuple] = {
    "seed": (0, 1, 2, 3, 4),
    "network": ("fcn", "cnn"),
    "dataset": ("mnist", "fashion_mnist", "cifar10"),
    "method": tuple(METHODS),
    "sparsity": (0.25, 0.5, 0.75, 0.9, 0.99),
}
INPUTS = {"digits": 64, "mnist": 784, "fashion_mnist": 784, "cifar10": 3072}


def product(preset: str = "paper", **axes: Sequence[Any]) -> list[Config]:
    """Return the configurations of a grid, breadth first over seeds.

    The first axes vary slowest, ``seed`` first of all, so that an interrupted grid is a whole grid
    with fewer seeds. Methods that prune nothing appear once, not once for each sparsity.

    Args:
        preset: where settings start.
        **axes: values for fields of `Config` and for ``method``.

    Example:
        >>> len(product(method=("unpruned", "magnitude"), sparsity=(0.5, 0.9), seed=(0, 1)))
        6
    """
    axes = {"seed": axes.pop("seed", (0,)), **axes}
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
    """Return the controls of a pruned FCN: what each part of the method is worth.

    Args:
        config: an FCN of a built-in data set, pruned by ``bayes_magnitude`` say.

    Raises:
        ValueError: for another network or data set (the small dense network needs their sizes).
    """
    if config.network != "fcn" or config.dataset not in INPUTS:
        raise ValueError(f"controls are of an fcn on one of {', '.join(INPUTS)}, got {config}")
    map_ = replace(config, objective="map", criterion="magnitude", restart="no", scope="layer")
    small = small_dense(config, INPUTS[config.dataset], outputs=10)
    return {
        "always pruned, same prior": replace(map_, gate="always"),
        "gated: previous": replace(map_, gate="previous"),
        "gated: propose": replace(map_, gate="propose"),
        "no prior": replace(map_, objective="mle", gate="always"),
        "global": replace(map_, gate="always", scope="global"),
        "random, magnitude's layers": replace(
            map_, gate="always", scope="global", criterion="shuffled_magnitude"
        ),
        "shuffled masks": replace(map_, gate="always", restart="shuffle"),
        "reinitialised": replace(map_, gate="always", restart="reinitialise"),
        "rewound": replace(map_, gate="always", restart="rewind"),
        "small dense": replace(map_, gate="always", sparsity=0.0, hidden=small),
    }


def small_dense(config: Config, inputs: int, outputs: int) -> tuple[int, ...]:
    """Return hidden widths, all equal, of the dense FCN with as many weights as the pruned one.

    Solves (h - 1) w² + (inputs + outputs) w = weights kept, for h layers of width w.
    """
    widths = [inputs, *config.hidden, outputs]
    weights = sum(n * m for n, m in zip(widths, widths[1:], strict=False))
    kept = weights * (1 - float(config.sparsity))
    a, b = len(config.hidden) - 1, inputs + outputs
    width = kept / b if a == 0 else (math.sqrt(b * b + 4 * a * kept) - b) / (2 * a)
    return (max(1, round(width)),) * len(config.hidden)
