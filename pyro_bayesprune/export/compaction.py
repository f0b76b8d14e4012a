"""Compaction: a smaller network with the same outputs.

The network is read as a chain of layers (`chain`). A unit is *constant* if it has no non-zero
weight from a unit that varies, and *unused* if it has no non-zero weight to a following unit.
`compact` adds the contributions of constant units to the biases of the next layer, and then
removes both kinds of units.
"""

import copy
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import pyro_bayesprune.export.chain as chains
from pyro_bayesprune.export.chain import CHANNELWISE, MIXING, NORMS, BiasMap, Layers, NotAChain

# The number of dimensions of inputs whose second dimension contains the units or channels.
DIMENSIONS = {nn.Linear: 2, nn.BatchNorm1d: 2, nn.Conv2d: 4, nn.BatchNorm2d: 4}
TOLERANCE = 1e-5  # largest allowed difference of outputs, relative to the largest output


@dataclass(frozen=True)
class _Activations:
    """Properties of the values between two layers."""

    varies: Tensor  # bool (channels,), False for constant channels
    constant: Tensor  # float64 (1, channels, ...), zero for channels that vary
    offset: Tensor | None = None  # like `constant`; replaces the bias of the preceding layer


def compact(module: nn.Module, shape: Sequence[int]) -> nn.Module:
    """Return a network without constant and unused units and filters, with the same outputs.

    Inputs and outputs of the network remain. At least one unit of each layer remains.

    Args:
        module: a chain of Linear, Conv2d, pooling, flatten, activation and BatchNorm layers (see
            `chain`). It is not changed.
        shape: shape of one input, e.g. (1, 28, 28). If the result contains a `BiasMap` (for
            constant filters under zero padding), it accepts inputs of this shape only.

    Returns:
        An ``nn.Sequential`` in evaluation mode. If the network cannot be analysed, an unchanged
        copy of ``module``, with a UserWarning that states the reason.
    """
    try:
        layers = chains.chain(module)
        points = _forward(layers, shape)
        compacted = _rebuild(layers, points, _channels_to_keep(layers, points))
        _check_equal(module, compacted, shape)
    except NotAChain as error:
        warnings.warn(f"the network is returned without compaction: {error}", stacklevel=2)
        return copy.deepcopy(module).eval()
    return compacted


@torch.no_grad()
def _forward(layers: Layers, shape: Sequence[int]) -> list[_Activations]:
    """Return the constants before the first layer and after each layer."""
    last = max((i for i, m in enumerate(layers.values()) if isinstance(m, MIXING)), default=-1)
    parameters = (p for layer in layers.values() for p in layer.parameters())
    device = next((p.device for p in parameters), torch.device("cpu"))
    start = torch.zeros(1, *shape, dtype=torch.float64, device=device)
    points = [_Activations(torch.ones(shape[0], dtype=torch.bool, device=device), start)]
    for i, (name, layer) in enumerate(layers.items()):
        dims, expected = points[-1].constant.dim(), DIMENSIONS.get(type(layer))
        if expected not in (dims, None):
            raise NotAChain(f"{name} gets inputs of {dims} dimensions, expected {expected}")
        exact = copy.deepcopy(layer).double().eval()
        points.append(_after(exact, points[-1], is_output=i >= last))
    return points


def _after(layer: Any, point: _Activations, *, is_output: bool) -> _Activations:  # noqa: ANN401
    """Return the constants after a layer. All outputs of the network count as varying."""
    value, varies, offset = layer(point.constant), point.varies, None
    if isinstance(layer, MIXING):
        offset = value
        varies = layer.weight.movedim(1, -1)[..., varies].flatten(1).ne(0).any(1)
    elif isinstance(layer, nn.Flatten):
        varies = varies.repeat_interleave(value.shape[1] // len(varies))
    elif isinstance(layer, NORMS) and layer.affine:
        varies = varies & layer.weight.ne(0)
    everything = torch.ones_like(varies)
    varies = everything if is_output else _at_least_one(varies, everything)
    constant = value.movedim(1, -1).masked_fill(varies, 0).movedim(-1, 1)
    return _Activations(varies, constant, offset)


def _at_least_one(chosen: Tensor, candidates: Tensor) -> Tensor:
    """Return ``chosen``, or only the first candidate if nothing is chosen; all bool (channels,)."""
    first = torch.arange(len(chosen), device=chosen.device) == candidates.int().argmax()
    return chosen if chosen.any() else first


def _channels_to_keep(layers: Layers, points: list[_Activations]) -> list[Tensor]:
    """Return for each point a bool tensor (channels,): True for channels that vary and are used."""
    keep = [points[-1].varies]
    for layer, before in zip(reversed(layers.values()), reversed(points[:-1]), strict=True):
        after = keep[0]
        if isinstance(layer, MIXING):
            used = layer.weight[after].transpose(0, 1).flatten(1).ne(0).any(1)
            after = _at_least_one(used & before.varies, before.varies)
        elif isinstance(layer, nn.Flatten):
            after = after.view(len(before.varies), -1).any(1)
        keep.insert(0, after)
    keep[0] = torch.ones_like(keep[0])  # the inputs of the network
    for i, layer in enumerate(layers.values()):
        if isinstance(layer, nn.Flatten):  # all positions of a filter remain, or none
            keep[i + 1] = keep[i].repeat_interleave(len(keep[i + 1]) // len(keep[i]))
        elif not isinstance(layer, MIXING):
            keep[i + 1] = keep[i]
    return keep


@torch.no_grad()
def _rebuild(layers: Layers, points: list[_Activations], keep: list[Tensor]) -> nn.Sequential:
    """Return the network that consists of the remaining channels."""
    rebuilt: Layers = OrderedDict()
    for i, (name, layer) in enumerate(layers.items()):
        offset = points[i + 1].offset
        if offset is not None:
            offset = offset[0, keep[i + 1]].to(next(layer.parameters()).dtype)
            bias = offset if offset.dim() == 1 else _uniform_bias(offset)
            rebuilt[name] = _sliced(layer, keep[i], keep[i + 1], bias)
            if bias is None:
                rebuilt[f"{name}_bias"] = BiasMap(offset.shape)
                rebuilt[f"{name}_bias"].bias = nn.Parameter(offset)
        elif isinstance(layer, CHANNELWISE):
            rebuilt[name] = _sliced_channels(layer, keep[i])
        else:
            rebuilt[name] = copy.deepcopy(layer)
    return nn.Sequential(rebuilt).eval()


def _uniform_bias(offset: Tensor) -> Tensor | None:
    """Return an offset (channels, h, w) as a bias (channels,), or None if positions differ."""
    places = offset.flatten(1)
    same = torch.allclose(places, places[:, :1].expand_as(places), rtol=1e-6, atol=1e-9)
    return places.median(1).values if same else None


def _sliced(layer: Any, inputs: Tensor, outputs: Tensor, bias: Tensor | None) -> nn.Module:  # noqa: ANN401
    """Return a Linear or Conv2d layer with the remaining inputs and outputs and a new bias."""
    layer = copy.deepcopy(layer)
    weight = layer.weight[outputs][:, inputs]
    if chains.is_channels_last(layer):
        weight = weight.contiguous(memory_format=torch.channels_last)
    layer.weight = nn.Parameter(weight)
    if bias is not None and (layer.bias is not None or bias.any()):
        layer.bias = nn.Parameter(bias)
    else:
        layer.bias = None
    unit = "channels" if isinstance(layer, nn.Conv2d) else "features"
    setattr(layer, f"out_{unit}", weight.shape[0])
    setattr(layer, f"in_{unit}", weight.shape[1])
    return layer


def _sliced_channels(layer: nn.Module, keep: Tensor) -> nn.Module:
    """Return a BatchNorm or BiasMap layer with the remaining channels."""
    layer = copy.deepcopy(layer)
    for tensor in (*layer.parameters(), *layer.buffers()):
        if tensor.dim():
            tensor.data = tensor[keep]
    if isinstance(layer, NORMS):
        layer.num_features = int(keep.sum())
    return layer


@torch.no_grad()
def _check_equal(module: nn.Module, compacted: nn.Module, shape: Sequence[int]) -> None:
    """Raise NotAChain if outputs differ, because the trace did not show all of ``module``."""
    like = next(module.parameters(), torch.zeros(1))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, *shape, generator=generator, dtype=torch.float64, device="cpu")
    x = x.to(like.device)
    expected, actual = (copy.deepcopy(m).double().eval()(x) for m in (module, compacted))
    limit = TOLERANCE * max(1.0, expected.abs().max().item())
    if actual.shape != expected.shape or (actual - expected).abs().max() > limit:
        raise NotAChain("its outputs are not those of the chain of layers that the trace shows")
