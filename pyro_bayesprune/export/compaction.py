"""Compaction: the same outputs from fewer units and filters.

A network is read as a chain of layers (`chain`). A unit is *constant* if no weight from a unit that
varies comes into it, and *unused* if no weight goes out of it. Constants are computed once and
folded into the next layer's bias; then both kinds are cut out (`compact`).
"""

import copy
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyro_bayesprune.export.chain import (
    CHANNELWISE,
    MIXING,
    BiasMap,
    NotAChain,
    arguments,
    chain,
    is_channels_last,
    make,
)

TOLERANCE = 1e-5  # largest difference of outputs that compaction may make, relative to the largest


@dataclass(frozen=True)
class _Point:
    """What is known of the values between two layers.

    Args:
        varies: bool (channels,), False for constants.
        constant: float64 (1, channels, ...), the constants' values, zero where a channel varies.
        offset: float64, as ``constant``: what stands in for the bias of the layer before.
    """

    varies: Tensor
    constant: Tensor
    offset: Tensor | None = None


def compact(module: nn.Module, shape: Sequence[int]) -> nn.Module:
    """Return a network with the same outputs, in evaluation mode, without dead units and filters.

    Removed are units and filters without a surviving incoming weight (they are constant, and are
    folded into the next bias) and those without a surviving outgoing one. Inputs and outputs stay.
    Where no unit of a layer survives, one is left.

    Args:
        module: a network of Linear, Conv2d, pooling, flatten, activations and BatchNorm, in which
            each layer follows from the one before (see `chain`); it is not changed.
        shape: shape of one input, e.g. (1, 28, 28). Where a `BiasMap` is needed (it replaces
            constant filters under zero padding), the result takes inputs of this shape only.

    Returns:
        An ``nn.Sequential`` in evaluation mode; or, with a UserWarning that says why, a copy of
        ``module`` as it is, where it cannot be analysed.
    """
    try:
        layers = chain(module)
        points = _forward(layers, shape)
        compacted = _rebuilt(layers, points, _kept(layers, points))
        _check_equal(module, compacted, shape)
    except NotAChain as error:
        warnings.warn(f"the network is left as it is: {error}", stacklevel=2)
        return copy.deepcopy(module).eval()
    return compacted


@torch.no_grad()
def _forward(layers: "OrderedDict[str, nn.Module]", shape: Sequence[int]) -> list[_Point]:
    """Find the constants: the values before the first layer, and after each one."""
    last = max((i for i, m in enumerate(layers.values()) if isinstance(m, MIXING)), default=-1)
    start = torch.zeros(1, *shape, dtype=torch.float64, device=_device(layers))
    points = [_Point(torch.ones(shape[0], dtype=torch.bool, device=start.device), start)]
    for i, (name, layer) in enumerate(layers.items()):
        _check_input(name, layer, points[-1].constant)
        exact = copy.deepcopy(layer).double().eval()
        points.append(_after(exact, points[-1], outputs=i >= last))
    return points


def _device(layers: "OrderedDict[str, nn.Module]") -> torch.device:
    tensors = (p for layer in layers.values() for p in layer.parameters())
    return next((p.device for p in tensors), torch.device("cpu"))


def _check_input(name: str, layer: nn.Module, value: Tensor) -> None:
    """Refuse a layer whose units do not stand in the dimension after the batch."""
    dims = {nn.Linear: 2, nn.BatchNorm1d: 2, nn.Conv2d: 4, nn.BatchNorm2d: 4}.get(type(layer))
    if dims is not None and value.dim() != dims:
        raise NotAChain(f"{name} gets inputs of {value.dim()} dimensions, expected {dims}")


def _after(layer: Any, point: _Point, *, outputs: bool) -> _Point:  # noqa: ANN401
    """Return what is known after a layer; the network's outputs count as varying, all of them."""
    value, offset = layer(point.constant), None
    if isinstance(layer, MIXING):
        offset = value
        incoming = layer.weight.movedim(1, -1)[..., point.varies]
        varies = incoming.flatten(1).ne(0).any(1)
    elif isinstance(layer, nn.Flatten):
        varies = point.varies.repeat_interleave(value.shape[1] // len(point.varies))
    elif isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)) and layer.affine:
        varies = point.varies & layer.weight.ne(0)
    else:
        varies = point.varies
    varies = torch.ones_like(varies) if outputs else _at_least_one(varies)
    return _Point(varies, value.movedim(1, -1).masked_fill(varies, 0).movedim(-1, 1), offset)


def _at_least_one(chosen: Tensor, among: Tensor | None = None) -> Tensor:
    """Return ``chosen``, or where none is, the first (of ``among``)."""
    if chosen.any():
        return chosen
    first = 0 if among is None else int(among.nonzero()[0])
    return torch.arange(len(chosen), device=chosen.device) == first


def _kept(layers: "OrderedDict[str, nn.Module]", points: list[_Point]) -> list[Tensor]:
    """Return which channels stay at each point, bool (channels,): they vary and are used."""
    kept = [points[-1].varies]
    for layer, before in zip(reversed(layers.values()), reversed(points[:-1]), strict=True):
        after = kept[0]
        if isinstance(layer, MIXING):
            used = layer.weight[after].transpose(0, 1).flatten(1).ne(0).any(1)
            after = _at_least_one(used & before.varies, among=before.varies)
        elif isinstance(layer, nn.Flatten):
            after = after.view(len(before.varies), -1).any(1)
        kept.insert(0, after)
    kept[0] = torch.ones_like(kept[0])  # inputs stay
    for i, layer in enumerate(layers.values()):
        if isinstance(layer, nn.Flatten):  # a filter stays with all its places
            kept[i + 1] = kept[i].repeat_interleave(len(kept[i + 1]) // len(kept[i]))
        elif not isinstance(layer, MIXING):
            kept[i + 1] = kept[i]
    return kept


@torch.no_grad()
def _rebuilt(
    layers: "OrderedDict[str, nn.Module]", points: list[_Point], kept: list[Tensor]
) -> nn.Sequential:
    """Return the network of what is kept."""
    built: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (name, layer) in enumerate(layers.items()):
        offset = points[i + 1].offset
        if offset is not None:
            offset = offset[0, kept[i + 1]].to(next(layer.parameters()).dtype)
            bias = offset if offset.dim() == 1 else _flat(offset)
            built[name] = _sliced(layer, kept[i], kept[i + 1], bias)
            if bias is None:
                built[f"{name}_bias"] = make(BiasMap, {"shape": offset.shape}, {"bias": offset})
        elif isinstance(layer, CHANNELWISE):
            built[name] = _sliced_channels(layer, kept[i])
        else:
            built[name] = copy.deepcopy(layer)
    return nn.Sequential(built).eval()


def _flat(offset: Tensor) -> Tensor | None:
    """Return the bias (channels,) of an offset (channels, h, w), None where places differ."""
    places = offset.flatten(1)
    same = torch.allclose(places, places[:, :1].expand_as(places), rtol=1e-6, atol=1e-9)
    return places.median(1).values if same else None


def _sliced(layer: Any, inputs: Tensor, outputs: Tensor, bias: Tensor | None) -> nn.Module:  # noqa: ANN401
    """Return a Linear or Conv2d of the kept inputs and outputs with another bias."""
    options = arguments(layer)
    names = ("in_features", "out_features")
    if isinstance(layer, nn.Conv2d):
        names = ("in_channels", "out_channels")
    counts = (int(inputs.sum()), int(outputs.sum()))
    options |= dict(zip(names, counts, strict=True))
    needless = layer.bias is None and bias is not None and not bias.any()
    options["bias"] = bias is not None and not needless
    weight = layer.weight[outputs][:, inputs]
    if isinstance(layer, nn.Conv2d) and is_channels_last(layer):
        weight = weight.contiguous(memory_format=torch.channels_last)
    tensors = {"weight": weight}
    if options["bias"] and bias is not None:
        tensors["bias"] = bias
    return make(type(layer), options, tensors)


def _sliced_channels(layer: nn.Module, kept: Tensor) -> nn.Module:
    """Return a BatchNorm or BiasMap of the kept channels."""
    state = {n: v[kept] if v.dim() else v for n, v in layer.state_dict().items()}
    options = arguments(layer)
    if isinstance(layer, BiasMap):
        options["shape"] = (int(kept.sum()), *layer.shape[1:])
    else:
        options["num_features"] = int(kept.sum())
    return make(type(layer), options, state)


@torch.no_grad()
def _check_equal(module: nn.Module, compacted: nn.Module, shape: Sequence[int]) -> None:
    """Refuse a compacted network whose outputs differ: the trace did not show all of ``module``."""
    like = next(module.parameters(), torch.zeros(1))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, *shape, generator=generator, dtype=torch.float64).to(like.device)
    expected = copy.deepcopy(module).double().eval()(x)
    found = copy.deepcopy(compacted).double()(x)
    scale = max(1.0, expected.abs().max().item())
    if found.shape != expected.shape or (found - expected).abs().max() > TOLERANCE * scale:
        raise NotAChain("its outputs are not those of the chain of layers that the trace shows")
