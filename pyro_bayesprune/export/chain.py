"""A network as a chain of known layers, read by torch.fx."""

import operator
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn


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
