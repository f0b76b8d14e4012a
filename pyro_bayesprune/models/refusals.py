"""Checks before training: modules that would give wrong densities or gradients are refused."""

import torch
from pyro import poutine
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pyro_bayesprune._utils.random import forked_rng
from pyro_bayesprune.data.inputs import Inputs, examples, num_examples, tensors
from pyro_bayesprune.models.graphs import graph_nodes, outputs_of_two
from pyro_bayesprune.models.module import (
    BayesianModule,
    Model,
    evaluation_mode,
    network,
    on_modules_that_run,
    submodules,
)

TOLERANCE = 1e-3  # relative; float32 is rounded to about 1e-7 in each operation
REENTRANT = "CheckpointFunctionBackward"


def check_modules(model: Model, x: Inputs, y: Tensor, batch_size: int, num_data: int) -> None:
    """Raise a ValueError for modules whose densities or gradients would be wrong."""
    _check_layers(_modules_that_run(model, x, y), batch_size, num_data)
    if isinstance(model, BayesianModule):
        outputs, _, _ = outputs_of_two(model, x)
        if any(node.name() == REENTRANT for node in graph_nodes(outputs)):
            raise ValueError(
                "checkpoint(..., use_reentrant=True) trains no weight inside it when a module is "
                "run on weights from outside: use use_reentrant=False"
            )
        _check_outputs(model, x)


def _check_layers(parts: list[nn.Module], batch_size: int, num_data: int) -> None:
    for part in parts:
        name = type(part).__name__
        if getattr(part, "max_norm", None) is not None:
            raise ValueError(
                f"{name} with max_norm changes its weights whenever it reads them, so that "
                f"densities are those of other weights: use max_norm=None"
            )
        if not isinstance(part, _BatchNorm):
            continue
        if part.running_mean is None:
            raise ValueError(
                f"{name} with track_running_stats=False normalises by the batch in evaluation mode "
                f"too, so that densities depend on the batch size: use running statistics, or "
                f"LayerNorm or GroupNorm"
            )
        if part.training and min(batch_size, num_data) == 1:
            raise ValueError(
                f"BatchNorm cannot be trained on batches of one example: batch_size is "
                f"{batch_size}, and there are {num_data} examples"
            )


def _check_outputs(model: BayesianModule, x: Inputs) -> None:
    """Raise a ValueError if outputs are random, or depend on the other examples of a batch."""
    name, last = type(model.net).__name__, num_examples(x) - 1
    alike = _first_output(model, x, [0, last], 0)
    if not _equal(alike, _first_output(model, x, [0, last], 1)):
        raise ValueError(
            f"the outputs of {name} are random in evaluation mode too, so that densities are "
            f"random: for dropout use nn.Dropout or F.dropout(..., training=self.training)"
        )
    if not _equal(alike, _first_output(model, x, [0, 0], 0)):
        raise ValueError(
            f"the outputs of {name} for one example depend on the other examples of its batch, so "
            f"that densities depend on the batch size (is a batch_first=True missing, or does the "
            f"network normalise by the batch?)"
        )


@torch.no_grad()
def _first_output(model: BayesianModule, x: Inputs, batch: list[int], seed: int) -> Tensor:
    """The output of the first of two examples."""
    two = examples(x, torch.tensor(batch, device=tensors(x)[0].device))
    with evaluation_mode(model), forked_rng(model.device, seed):
        return model.outputs(model.named_weights(), two)[0].double()


def _equal(first: Tensor, second: Tensor) -> bool:
    if first.shape != second.shape:
        return False
    return not (first - second).norm() > TOLERANCE * first.norm()  # NaN is refused elsewhere


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
