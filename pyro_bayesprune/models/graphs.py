"""The autograd graph of a network's outputs, for inspection."""

from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor

from pyro_bayesprune._utils.random import forked_rng
from pyro_bayesprune.data.inputs import Inputs, examples, mapped
from pyro_bayesprune.models.module import BayesianModule, Weights, evaluation_mode


def outputs_of_two(
    model: BayesianModule, x: Inputs, seed: int | None = None
) -> tuple[Tensor, Inputs, Weights]:
    """Return a network's outputs for two examples, these examples, and the parameters by name.

    The outputs have an autograd graph that reaches the parameters and floating-point inputs. The
    random numbers that the network may draw have the given seed.
    """
    point = {n: p.detach().requires_grad_() for n, p in model.named_weights().items()}
    x = differentiable(examples(x, slice(2)))
    with evaluation_mode(model), torch.enable_grad(), forked_rng(model.device, seed):
        return model.outputs(point, x), x, point


def differentiable(x: Inputs) -> Inputs:
    """Return inputs without history, of which those in floating point require a gradient."""
    return mapped(lambda t: t.detach().requires_grad_(t.is_floating_point()), x)


def graph_nodes(value: Tensor, stop: Collection[Any] = ()) -> Iterator[Any]:
    """Yield each node of the graph that computed a tensor, but none behind a node in ``stop``."""
    pending, visited = [value.grad_fn], set()
    while pending:
        node: Any = pending.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        yield node
        if node not in stop:
            pending += [parent for parent, _ in node.next_functions]
