"""Checks before training: modules that would give wrong densities or gradients are refused."""

import torch
from pyro import poutine
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pyro_bayesprune._utils.random import forked_rng
from pyro_bayesprune.data.inputs import Inputs, examples
from pyro_bayesprune.models.graphs import graph_nodes, outputs_of_two
from pyro_bayesprune.models.module import (
    BayesianModule,
    Model,
    evaluation_mode,
    network,
    on_modules_that_run,
    submodules,
)

TOLERANCE = 1e-3  # relative; float32 rounds to about 1e-6
REENTRANT = "CheckpointFunctionBackward"


def check_modules(model: Model, x: Inputs, y: Tensor, batch_size: int, num_data: int) -> None:
    """Raise a ValueError for modules whose densities or gradients would be wrong."""
    parts = _modules_that_run(model, x, y)
    for part in parts:
        if getattr(part, "max_norm", None) is not None:
            raise ValueError(
                f"{type(part).__name__} with max_norm changes its weights whenever it reads them, "
                f"so that densities are those of other weights: use max_norm=None"
            )
    norms = [part for part in parts if isinstance(part, _BatchNorm)]
    for norm in norms:
        if norm.running_mean is None:
            raise ValueError(
                f"{type(norm).__name__} with track_running_stats=False normalises by the batch in "
                f"evaluation mode too, so that densities depend on the batch size: use running "
                f"statistics, or LayerNorm or GroupNorm"
            )
    if min(batch_size, num_data) == 1 and any(norm.training for norm in norms):
        raise ValueError(
            f"BatchNorm cannot be trained on batches of one example: batch_size is {batch_size}, "
            f"and there are {num_data} examples"
        )
    if isinstance(model, BayesianModule):
        outputs, again = (outputs_of_two(model, x, seed)[0] for seed in (0, 1))
        if not torch.allclose(outputs, again, equal_nan=True):
            raise ValueError(
                f"{type(model.net).__name__} draws random numbers in evaluation mode, so that "
                f"densities differ from pass to pass: for dropout use nn.Dropout, or "
                f"F.dropout(..., training=self.training)"
            )
        if _mixes_examples(model, x, outputs):
            raise ValueError(
                f"the outputs of {type(model.net).__name__} for an example depend on the others in "
                f"its batch, so that densities depend on the batch size. Attention and recurrent "
                f"layers need batch_first=True for inputs (n, ...)"
            )
        if any(node.name() == REENTRANT for node in graph_nodes(outputs)):
            raise ValueError(
                "checkpoint(..., use_reentrant=True) trains no weight inside it when a module is "
                "run on weights from outside: use use_reentrant=False"
            )


def _mixes_examples(model: BayesianModule, x: Inputs, outputs: Tensor) -> bool:
    """Return whether the first of two examples has other outputs when it is alone."""
    try:
        alone, _, _ = outputs_of_two(model, examples(x, slice(1)), seed=0)
    except (RuntimeError, ValueError, IndexError, TypeError):  # a network that needs two examples
        return False
    first = outputs[:1]
    size = TOLERANCE * first.abs().max().item()
    return alone.shape != first.shape or not torch.allclose(alone, first, TOLERANCE, size, True)


def normalises_batches(model: Model) -> bool:
    """Return whether a module has a BatchNorm in training mode."""
    return any(isinstance(part, _BatchNorm) and part.training for _, part in submodules(model))


def _modules_that_run(model: Model, x: Inputs, y: Tensor) -> list[nn.Module]:
    """The modules of a model, or those that a function runs when it is called."""
    if network(model) is not None:
        return [part for _, part in submodules(model)]
    parts: list[nn.Module] = []
    with on_modules_that_run(parts.append), evaluation_mode(model), torch.no_grad():
        with forked_rng(y.device), poutine.block():
            model(examples(x, slice(2)), y[:2])
    return parts
