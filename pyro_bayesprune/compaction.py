"""Compaction: the same outputs from fewer units and filters.

A network is read as a chain of layers (`chain`). A unit is *constant* if no weight from a unit that
varies comes into it, and *unused* if no weight goes out of it. Constants are computed once and
folded into the next layer's bias; then both kinds are cut out (`compact`).
"""

import copy
import operator
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

TOLERANCE = 1e-5  # largest difference of outputs that compaction may make, relative to the largest


class BiasMap(nn.Module):
    """Adds a bias of its own to each place of an image: inputs and outputs (n, *shape).

    What a constant filter adds to a convolution with zero padding differs at the border, so a bias
    a channel cannot hold it.

    Args:
        shape: shape of one image (channels, height, width).
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.bias = nn.Parameter(torch.zeros(self.shape))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x + bias``."""
        return x + self.bias

    def extra_repr(self) -> str:
        """Return the shape, for printing."""
        return str(self.shape)


MIXING = (nn.Linear, nn.Conv2d)
CHANNELWISE = (nn.BatchNorm1d, nn.BatchNorm2d, BiasMap)

# All layers that a chain may have, each with the arguments that build it again.
ARGUMENTS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Linear: ("in_features", "out_features", "bias"),
    nn.Conv2d: (
        *("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation"),
        *("groups", "bias", "padding_mode"),
    ),
    BiasMap: ("shape",),
    nn.BatchNorm1d: ("num_features", "eps", "momentum", "affine"),
    nn.BatchNorm2d: ("num_features", "eps", "momentum", "affine"),
    nn.MaxPool2d: ("kernel_size", "stride", "padding", "dilation", "ceil_mode"),
    nn.AvgPool2d: ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad"),
    nn.AdaptiveAvgPool2d: ("output_size",),
    nn.AdaptiveMaxPool2d: ("output_size",),
    nn.Flatten: (),
    nn.ReLU: (),
    nn.ReLU6: (),
    nn.LeakyReLU: ("negative_slope",),
    nn.ELU: ("alpha",),
    nn.SELU: (),
    nn.CELU: ("alpha",),
    nn.GELU: ("approximate",),
    nn.SiLU: (),
    nn.Mish: (),
    nn.Softplus: ("beta", "threshold"),
    nn.Hardtanh: ("min_val", "max_val"),
    nn.Hardswish: (),
    nn.Tanh: (),
    nn.Sigmoid: (),
}
SKIPPED = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d)  # nothing in evaluation mode

FUNCTIONS: dict[Callable[..., Any] | str, type[nn.Module]] = {
    F.relu: nn.ReLU,
    torch.relu: nn.ReLU,
    "relu": nn.ReLU,
    F.leaky_relu: nn.LeakyReLU,
    F.elu: nn.ELU,
    F.gelu: nn.GELU,
    F.silu: nn.SiLU,
    torch.tanh: nn.Tanh,
    "tanh": nn.Tanh,
    torch.sigmoid: nn.Sigmoid,
    "sigmoid": nn.Sigmoid,
    F.max_pool2d: nn.MaxPool2d,
    torch.max_pool2d: nn.MaxPool2d,
    F.avg_pool2d: nn.AvgPool2d,
    F.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
    torch.flatten: nn.Flatten,
    "flatten": nn.Flatten,
    F.dropout: nn.Dropout,
}


class NotAChain(ValueError):
    """A network that cannot be read as a chain of known layers; the message says why."""


def chain(module: nn.Module) -> "OrderedDict[str, nn.Module]":
    """Return a network's layers in the order of its computation, by name.

    The network is traced in evaluation mode (torch.fx), so it may be an ``nn.Sequential``, nested,
    or have a ``forward`` of its own. The layers are those of ``module``, not copies.

    Raises:
        NotAChain: (a ValueError) for branches, unknown layers, or what torch.fx cannot trace.
    """
    if type(module) in ARGUMENTS:
        module = nn.Sequential(OrderedDict(layer=module))
    traced = _traced(module)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    previous: fx.Node | None = None
    for node in traced.graph.nodes:
        if node.op == "placeholder" and previous is None:
            previous = node
        elif node.op == "output" and node.args[0] is previous:
            return layers
        elif not _is_size(node):
            layer = _layer(traced, node, previous)
            previous = node
            if not isinstance(layer, SKIPPED):
                layers[_name(node, layers)] = layer
    raise NotAChain("its output is not that of its last layer")


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Stop at the known layers, torch's or our own."""
        return type(m) in ARGUMENTS or super().is_leaf_module(m, module_qualified_name)


def _traced(module: nn.Module) -> fx.GraphModule:
    tracer, was_training = _Tracer(), module.training
    try:
        module.eval()  # dropout called as a function reads the flag when it is traced
        return fx.GraphModule(module, tracer.trace(module))
    except Exception as error:  # tracing runs the user's own code
        raise NotAChain(f"torch.fx cannot trace it ({type(error).__name__}: {error})") from error
    finally:
        module.train(was_training)


def _is_size(node: fx.Node) -> bool:
    """Whether a node only computes the batch's size, for a ``view(x.size(0), -1)``."""
    if node.op == "call_method":
        return node.target == "size"
    is_shape = node.target is getattr and node.args[1:] == ("shape",)
    of_size = node.target is operator.getitem and _is_size(node.args[0])  # type: ignore[arg-type]
    return node.op == "call_function" and (is_shape or of_size)


def _name(node: fx.Node, taken: "OrderedDict[str, nn.Module]") -> str:
    name = str(node.target)
    own = node.op == "call_module" and "." not in name and name not in taken
    return name if own else node.name


def _layer(traced: fx.GraphModule, node: fx.Node, previous: fx.Node | None) -> nn.Module:
    """Return the layer that a node of a traced network stands for."""
    inputs = [n for n in node.all_input_nodes if not _is_size(n)]
    if inputs != [previous]:
        raise NotAChain(f"{node.name} does not follow from the layer before it alone")
    if node.op == "call_module":
        layer = traced.get_submodule(str(node.target))
    elif node.target in ("view", "reshape") and len(node.args) == 3 and node.args[2] == -1:
        layer = nn.Flatten()
    elif node.target in FUNCTIONS:
        layer = _called(FUNCTIONS[node.target], node)
    else:
        raise NotAChain(f"it calls {node.target}, which is not among the known layers")
    return _known(str(node.target), layer)


def _called(kind: type[nn.Module], node: fx.Node) -> nn.Module:
    """Return the module of a function; the first arguments of both stand in the same order."""
    options: dict[str, Any] = {
        name: value for name, value in node.kwargs.items() if name not in ("inplace", "training")
    }
    try:
        if len(node.args) > 4:
            raise TypeError("too many without a name")
        return kind(*node.args[1:], **options)
    except (TypeError, ValueError) as error:
        raise NotAChain(f"the arguments of {node.name} are not understood ({error})") from error


def _known(name: str, layer: nn.Module) -> nn.Module:
    """Return the layer if it is one that is analysed; refuse it otherwise."""
    if type(layer) not in ARGUMENTS and not isinstance(layer, SKIPPED):
        raise NotAChain(f"{name} is a {type(layer).__name__}, which is not among the known layers")
    if isinstance(layer, nn.Flatten) and (layer.start_dim, layer.end_dim) != (1, -1):
        raise NotAChain(f"{name} flattens other dimensions than all but the first")
    if isinstance(layer, nn.Conv2d) and layer.groups != 1:
        raise NotAChain(f"{name} is a convolution in groups")
    if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)) and layer.running_mean is None:
        raise NotAChain(f"{name} has no running statistics")
    if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)) and layer.affine and layer.bias is None:
        raise NotAChain(f"{name} scales without a bias")
    if getattr(layer, "return_indices", False) or getattr(layer, "divisor_override", None):
        raise NotAChain(f"{name} returns indices or overrides its divisor")
    if any(map(bool, (layer._forward_hooks, layer._forward_pre_hooks))):
        raise NotAChain(f"{name} has hooks")
    return layer


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


def make(
    kind: type[nn.Module], options: Mapping[str, Any], state: Mapping[str, Tensor]
) -> nn.Module:
    """Return a layer of copies of the tensors in ``state``; draws no random initial values.

    Raises:
        RuntimeError: if a tensor is missing, unknown or of another shape.
    """
    with torch.device("meta"):
        layer = kind(**options)
    layer.load_state_dict({n: v.detach().clone() for n, v in state.items()}, assign=True)
    return layer


def is_channels_last(module: nn.Module) -> bool:
    """Say whether a module's convolutions are kept in ``channels_last`` layout."""
    weights = [p for p in module.parameters() if p.dim() == 4]
    return bool(weights) and all(
        p.is_contiguous(memory_format=torch.channels_last) for p in weights
    )


def arguments(layer: nn.Module) -> dict[str, Any]:
    """Return the arguments that build a known layer again."""
    found = {name: getattr(layer, name) for name in ARGUMENTS[type(layer)]}
    if "bias" in found:
        found["bias"] = layer.bias is not None
    return found


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
