"""Jacobians of a network's outputs by its parameters, and products with them."""

import warnings
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.func import jacrev, vmap

from pyro_bayesprune.data.inputs import Inputs, examples, mapped, split
from pyro_bayesprune.inference.layers import (
    LayerCall,
    closed_form_layers,
    parameters_at,
    positions,
    record_layers,
)
from pyro_bayesprune.inference.log_joint import lean
from pyro_bayesprune.models.module import BayesianModule, Weights, evaluation_mode

JACOBIAN_ELEMENTS = 2**25  # of the Jacobians in memory at a time
COLUMNS = 1024  # of a layer's Jacobian in memory at a time, which fit into a cache


def lean_parameters(model: BayesianModule, weights: Mapping[str, Tensor]) -> Weights:
    """Return the parameters without gradients, with large sparse matrices as their survivors."""
    return dict(lean(model, {n: w.detach() for n, w in parameters_at(model, weights).items()}))


def gradients_by_name(value: Tensor, point: Mapping[str, Tensor]) -> Weights:
    """Return the gradients of a scalar by parameter; zero where it does not depend on one."""
    grads = torch.autograd.grad(
        value, list(point.values()), retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return dict(zip(point, grads, strict=True))


def layer_gradients(
    outputs: Tensor, calls: list[LayerCall], column: Tensor
) -> Iterator[tuple[LayerCall, Tensor]]:
    """Yield each layer call with the gradient of ``column`` · ``outputs`` in its outputs."""
    cotangent = column.view_as(outputs)
    layers = [call.outputs for call in calls]
    grads = torch.autograd.grad(outputs, layers, cotangent, retain_graph=True)
    yield from zip(calls, (g.detach() for g in grads), strict=True)


def at_once(model: BayesianModule, point: Weights, x: Inputs, names: list[str]) -> int:
    """Return the number of examples whose Jacobians are in memory at a time."""
    with torch.no_grad():
        outputs = model.outputs(point, examples(x, slice(1)))
    size = outputs.numel() * sum(point[n].numel() for n in names)
    return max(1, JACOBIAN_ELEMENTS // size)


def jacobians(
    model: BayesianModule, point: Weights, x: Inputs, names: list[str]
) -> Iterator[tuple[Tensor, Weights]]:
    """Yield outputs (n, ...) of K elements, and Jacobians (n, K, *shape), a few examples at a time.

    The Jacobians are computed under vmap if the network supports it, else one output at a time.
    """
    for part in split(x, at_once(model, point, x, names)):
        with torch.no_grad():
            outputs = model.outputs(point, part)
        try:
            by_name = _batched_jacobians(model, point, part, names)
        except (RuntimeError, ValueError, NotImplementedError):  # not every operation has a batch
            ones = [_single_jacobian(model, point, one, names) for one in split(part, 1)]
            by_name = {n: torch.stack([one[n] for one in ones]) for n in names}
        yield outputs, by_name


def _batched_jacobians(
    model: BayesianModule, point: Weights, x: Inputs, names: list[str]
) -> Weights:
    fixed = {n: w.detach() for n, w in point.items()}

    def outputs(chosen: Weights, one: Inputs) -> Tensor:
        return model.outputs(fixed | chosen, mapped(lambda value: value[None], one))[0].flatten()

    chosen = {n: fixed[n] for n in names}
    with warnings.catch_warnings():
        # PyTorch warns that operations without a batched form are slow. Their results are right.
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
        return vmap(jacrev(outputs), in_dims=(None, 0))(chosen, x)


def _single_jacobian(model: BayesianModule, point: Weights, x: Inputs, names: list[str]) -> Weights:
    outputs, chosen = model.outputs(point, x).flatten(), {n: point[n] for n in names}
    gradients = [gradients_by_name(o, chosen) for o in outputs]
    return {n: torch.stack([by_name[n] for by_name in gradients]) for n in names}


def jacobian_products(
    model: BayesianModule,
    weights: Mapping[str, Tensor],
    x: Inputs,
    index: Mapping[str, Tensor],
    changes: Mapping[str, Tensor],
) -> tuple[Tensor, Tensor]:
    """Return the outputs f(x) (n, ...), and J(x) v for S changes v of few weights (S, n, ...).

    This takes K backward passes for any S. It is for networks with `has_closed_form`. ``index`` has
    the positions of the changed weights in each flattened parameter, ``changes`` their changes
    (S, len(index)).
    """
    with evaluation_mode(model), torch.enable_grad():
        layers = closed_form_layers(model, weights, x)
        outputs, calls = record_layers(model, lean_parameters(model, weights), x, layers)
        number = len(next(iter(changes.values())))
        size = outputs[0].numel()
        total = outputs.new_zeros(size, number, len(outputs))
        for k, products in enumerate(total):
            column = outputs.new_zeros(len(outputs), size)
            column[:, k] = 1
            for call, grad in layer_gradients(outputs, calls, column):
                _add_products(products, call, grad, index, changes)
    return outputs.detach(), total.permute(1, 2, 0).reshape(number, *outputs.shape)


def _add_products(
    total: Tensor,
    call: LayerCall,
    grad: Tensor,
    index: Mapping[str, Tensor],
    changes: Mapping[str, Tensor],
) -> None:
    """Add one layer's part of J v to ``total`` (S, n), for the output with gradient ``grad``."""
    a, b = positions(call, grad)
    if call.weight in index and a.shape[2] == 1:
        inputs, by_output = a[:, :, 0].mT.contiguous(), b[:, :, 0].mT.contiguous()
        parts = index[call.weight].split(COLUMNS), changes[call.weight].split(COLUMNS, 1)
        for i, change in zip(*parts, strict=True):
            total.addmm_(change, by_output[i // len(inputs)].mul_(inputs[i % len(inputs)]))
    elif call.weight in index:
        columns = (b @ a.mT).flatten(1).mT
        total.addmm_(changes[call.weight], columns[index[call.weight]])
    if call.bias is not None and call.bias in index:
        total.addmm_(changes[call.bias], b.sum(2).mT[index[call.bias]])
