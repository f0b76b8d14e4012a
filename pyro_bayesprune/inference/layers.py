"""Inputs and outputs of a network's layers, and the gradients that follow from them.

For a Linear or Conv layer that is used once, the gradient of example n with respect to its weights
is Σ_t b_nt a_ntᵀ, with the layer's inputs a, the gradient b with respect to its outputs, and the
positions t at which it is used. This closed form is wrong for a layer whose weights are used
elsewhere as well, whose batch is folded into rows, or whose inputs are changed in place. Therefore,
it is compared with autograd for a few examples.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from pyro_bayesprune._utils.random import forked_rng
from pyro_bayesprune.data.inputs import Inputs, detached, examples, num_examples
from pyro_bayesprune.models.graphs import graph_nodes
from pyro_bayesprune.models.module import BayesianModule, Weights, evaluation_mode

EXAMPLES = 3  # compared with autograd
TOLERANCE = 1e-3  # relative, in the norm of a gradient; float32 rounds to about 1e-6
PLAIN = (nn.Linear, nn.Conv1d, nn.Conv2d)


class LayerCall(NamedTuple):
    """One call of a layer that has parameters of its own; later layers use the ``copy``."""

    name: str
    layer: nn.Module
    inputs: Tensor
    outputs: Tensor
    copy: Tensor

    @property
    def weight(self) -> str:
        """Name of the layer's weight in the network."""
        return f"{self.name}.weight".lstrip(".")

    @property
    def bias(self) -> str | None:
        """Name of the layer's bias in the network, None where it has none."""
        return None if self.layer.bias is None else f"{self.name}.bias".lstrip(".")


def parameters_at(model: BayesianModule, weights: Mapping[str, Tensor]) -> Weights:
    """Return the network's parameters at a point, without the priors' scales, with gradients."""
    return {n: weights[n].detach().requires_grad_() for n in model.named_weights()}


def record_layers(
    model: BayesianModule,
    point: Mapping[str, Tensor],
    x: Inputs,
    layers: Collection[str] | None = None,
) -> tuple[Tensor, list[LayerCall]]:
    """Return the outputs for ``x``, and the calls of the named layers (all) with parameters.

    With gradients enabled, the outputs have gradients with respect to those of each layer, whether
    or not the parameters and the inputs require any.
    """
    calls: list[LayerCall] = []

    def record(name: str, layer: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def hook(layer: nn.Module, args: tuple, kwargs: dict[str, Any], outputs: Any) -> Any:  # noqa: ANN401
            inputs = next(iter((*args, *kwargs.values())), None)
            if not (isinstance(inputs, Tensor) and isinstance(outputs, Tensor)):
                return None
            new = torch.is_grad_enabled() and not outputs.requires_grad
            if new and outputs.is_floating_point():
                outputs = outputs.detach().requires_grad_()  # the graph starts here at the latest
            copy = outputs.clone()  # in-place operations that follow change the copy only
            calls.append(LayerCall(name, layer, inputs.detach(), outputs, copy))
            return copy

        return layer.register_forward_hook(hook, with_kwargs=True)

    named = [(n, m) for n, m in model.net.named_modules() if layers is None or n in layers]
    handles = [record(n, m) for n, m in named if list(m.parameters(recurse=False))]
    try:
        return model.outputs(point, x), calls
    finally:
        for handle in handles:
            handle.remove()


def input_positions(call: LayerCall) -> Tensor:
    """Return a layer's inputs (n, fan in, t) at the t positions at which it is used."""
    layer = call.layer
    if isinstance(layer, nn.Conv1d):  # a convolution of images of height one
        kernel, dilation, padding, stride = (
            cast(tuple[int], v)[0]
            for v in (layer.kernel_size, layer.dilation, layer.padding, layer.stride)
        )
        sizes = [(1, kernel), (1, dilation), (0, padding), (1, stride)]
        return nn.functional.unfold(call.inputs[:, :, None], *sizes)
    if isinstance(layer, nn.Conv2d):
        settings = (layer.kernel_size, layer.dilation, layer.padding, layer.stride)
        return nn.functional.unfold(call.inputs, *(cast(tuple[int, int], v) for v in settings))
    return call.inputs[:, :, None] if call.inputs.dim() == 2 else call.inputs.flatten(1, -2).mT


def inputs_with_bias(call: LayerCall) -> Tensor:
    """Return a layer's inputs (fan in, n · t), with a row of ones for a bias."""
    inputs = input_positions(call).transpose(0, 1).flatten(1)
    return inputs if call.bias is None else torch.cat([inputs, torch.ones_like(inputs[:1])])


def output_positions(call: LayerCall, grad: Tensor) -> Tensor:
    """Return gradients (n, outputs, t) with respect to a layer's outputs at its t positions."""
    if isinstance(call.layer, nn.Linear):
        return grad[:, :, None] if grad.dim() == 2 else grad.flatten(1, -2).mT
    return grad.flatten(2)


def positions(call: LayerCall, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Return `input_positions` and `output_positions`."""
    return input_positions(call), output_positions(call, grad)


Names = frozenset[str]
_agreeing: WeakKeyDictionary[BayesianModule, dict[Names, Names]] = WeakKeyDictionary()


def closed_form_layers(
    model: BayesianModule, weights: Mapping[str, Tensor], x: Inputs
) -> frozenset[str]:
    """Return the names of the layers whose gradients have the closed form.

    The comparison with autograd is made once for each network and its trainable parameters, and its
    result is stored. Noise is added to the weights, since zeros of pruned weights could hide a
    difference.

    Args:
        model: the lifted network.
        weights: a point.
        x: inputs (n, ...), of which the first few are used.
    """
    known, trainable = _agreeing.setdefault(model, {}), frozenset(model.named_weights())
    if trainable not in known:
        few = detached(examples(x, slice(EXAMPLES)))
        known[trainable] = frozenset(_compared(model, weights, few))
    return known[trainable]


def has_closed_form(model: BayesianModule, weights: Mapping[str, Tensor], x: Inputs) -> bool:
    """Return whether every parameter belongs to a layer of `closed_form_layers`."""
    layers = closed_form_layers(model, weights, x)
    return {n.rpartition(".")[0] for n in model.named_weights()} <= layers


def _compared(model: BayesianModule, weights: Mapping[str, Tensor], x: Inputs) -> Iterator[str]:
    generator = torch.Generator().manual_seed(0)
    point = {
        name: (w.detach() + _noise(w, generator)).requires_grad_()
        for name, w in parameters_at(model, weights).items()
    }
    with evaluation_mode(model), torch.enable_grad():
        outputs, calls = record_layers(model, point, x)
        cotangent = torch.randn(outputs.shape, generator=generator, device="cpu").to(outputs)
        for call in calls:
            if _is_plain(call, calls, point) and _agrees(model, point, x, outputs, cotangent, call):
                yield call.name


def _noise(weight: Tensor, generator: torch.Generator) -> Tensor:
    size = 0.1 * weight.detach().double().square().mean().sqrt().item() + 0.01
    return size * torch.randn(weight.shape, generator=generator, device="cpu").to(weight)


def _is_plain(call: LayerCall, calls: list[LayerCall], point: Mapping[str, Tensor]) -> bool:
    """Whether a layer is used once, is a Linear or plain Conv layer, and owns its parameters."""
    layer = call.layer
    if not isinstance(layer, PLAIN) or [c.name for c in calls].count(call.name) > 1:
        return False
    own = {f"{call.name}.{n}".lstrip(".") for n, _ in layer.named_parameters()}
    if own != {call.weight} | ({call.bias} if call.bias else set()) or not own <= set(point):
        return False  # another parametrisation, or a frozen parameter
    if isinstance(layer, nn.Linear):
        return True
    zeros = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return zeros and layer.groups == 1


def _agrees(
    model: BayesianModule,
    point: Weights,
    x: Inputs,
    outputs: Tensor,
    cotangent: Tensor,
    call: LayerCall,
) -> bool:
    """Return whether autograd gives each example alone the same gradient for a layer's weights."""
    names = [call.weight] + ([call.bias] if call.bias else [])
    try:
        (grad,) = torch.autograd.grad(outputs, call.outputs, cotangent, retain_graph=True)
        a, b = positions(call, grad)
        closed = [b @ a.mT, b.sum(2)]
        for i in range(num_examples(x)):
            alone = model.outputs(point, examples(x, slice(i, i + 1)))
            exact = torch.autograd.grad(alone, [point[n] for n in names], cotangent[i : i + 1])
            for one, other in zip(exact, closed, strict=False):
                difference = one.flatten() - other[i].flatten()
                if not difference.norm() <= TOLERANCE * one.norm():
                    return False
    except (RuntimeError, ValueError, IndexError, TypeError):  # a fold or a view that does not fit
        return False
    return True


def output_layers(model: BayesianModule, x: Inputs) -> set[str]:
    """Return the layers between which and the outputs there is no other layer.

    They are determined from the autograd graph, not from the order of registration.

    Args:
        model: the lifted network.
        x: inputs (n, ...); two are used.
    """
    point = parameters_at(model, model.named_weights())
    with evaluation_mode(model), torch.enable_grad(), forked_rng(model.device):
        outputs, calls = record_layers(model, point, detached(examples(x, slice(2))))
    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    nodes = {c.outputs.grad_fn: c.name for c in calls if isinstance(c.layer, kinds)}
    return {nodes[node] for node in graph_nodes(outputs, stop=nodes) if node in nodes}
