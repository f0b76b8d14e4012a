"""A network as a chain of known layers, in which each layer follows from the previous one."""

import operator
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn


class BiasMap(nn.Module):
    """Adds a separate bias to each position of images (n, *shape), shape (channels, height, width).

    It replaces constant filters before a convolution with zero padding. Their contribution differs
    at the border, so one bias for each channel cannot represent it.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(tuple(shape)))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an input without its first dimension."""
        return tuple(self.bias.shape)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x + bias``."""
        return x + self.bias


Layers = OrderedDict[str, nn.Module]
MIXING = (nn.Linear, nn.Conv2d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
CHANNELWISE = (*NORMS, BiasMap)
# The layers that a chain may contain, each with the arguments that construct it.
_KNOWN: dict[tuple[type[nn.Module], ...], str] = {
    (nn.Linear,): "in_features out_features bias",
    (nn.Conv2d,): "in_channels out_channels kernel_size stride padding dilation groups bias "
    "padding_mode",
    (BiasMap,): "shape",
    NORMS: "num_features eps momentum affine",
    (nn.MaxPool2d,): "kernel_size stride padding ceil_mode dilation",
    (nn.AvgPool2d,): "kernel_size stride padding ceil_mode count_include_pad",
    (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d): "output_size",
    (nn.LeakyReLU,): "negative_slope",
    (nn.ELU, nn.CELU): "alpha",
    (nn.GELU,): "approximate",
    (nn.Softplus,): "beta threshold",
    (nn.Hardtanh,): "min_val max_val",
    (nn.Flatten, nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU, nn.Mish): "",
    (nn.Hardswish, nn.Tanh, nn.Sigmoid): "",
}
ARGUMENTS = {kind: names.split() for kinds, names in _KNOWN.items() for kind in kinds}
INACTIVE = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d)  # no effect in evaluation mode
FUNCTIONS: dict[Callable[..., Any] | str, type[nn.Module]] = {
    **{name: nn.ReLU for name in (F.relu, torch.relu, "relu")},
    **{name: nn.Tanh for name in (torch.tanh, "tanh")},
    **{name: nn.Sigmoid for name in (torch.sigmoid, "sigmoid")},
    **{name: nn.Flatten for name in (torch.flatten, "flatten")},
    **{name: nn.MaxPool2d for name in (F.max_pool2d, torch.max_pool2d)},
    F.leaky_relu: nn.LeakyReLU,
    F.elu: nn.ELU,
    F.gelu: nn.GELU,
    F.silu: nn.SiLU,
    F.avg_pool2d: nn.AvgPool2d,
    F.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
    F.dropout: nn.Dropout,
}


class NotAChain(ValueError):
    """The network cannot be read as a chain of known layers; the message states why."""


def chain(module: nn.Module) -> Layers:
    """Return the layers of a network by name, in the order of its computation.

    The network is traced with torch.fx in evaluation mode. It may therefore be an
    ``nn.Sequential``, contain nested modules, or have its own ``forward``. The returned layers are
    those of ``module``, not copies. For any other network, NotAChain is raised.
    """
    if type(module) in ARGUMENTS:
        module = nn.Sequential(OrderedDict(layer=module))
    traced = _traced(module)
    layers: Layers = OrderedDict()
    previous: fx.Node | None = None
    for node in traced.graph.nodes:
        if node.op == "placeholder" and previous is None:
            previous = node
        elif node.op == "output" and node.args[0] is previous:
            return layers
        elif not _is_size(node):
            layer = _layer(traced, node, previous)
            previous = node
            if not isinstance(layer, INACTIVE):
                layers[_name(node, layers)] = layer
    raise NotAChain("its output is not that of its last layer")


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Do not trace into the known layers, including `BiasMap`."""
        return type(m) in ARGUMENTS or super().is_leaf_module(m, module_qualified_name)


def _traced(module: nn.Module) -> fx.GraphModule:
    tracer, was_training = _Tracer(), module.training
    try:
        module.eval()  # F.dropout reads this flag during tracing
        return fx.GraphModule(module, tracer.trace(module))
    except Exception as error:  # tracing runs the user's code, which may raise anything
        raise NotAChain(f"torch.fx cannot trace it ({type(error).__name__}: {error})") from error
    finally:
        module.train(was_training)


def _is_size(node: fx.Node) -> bool:
    """Return whether a node only computes a size, as in ``x.view(x.size(0), -1)``."""
    if node.op == "call_method":
        return node.target == "size"
    is_shape = node.target is getattr and node.args[1:] == ("shape",)
    of_size = node.target is operator.getitem and _is_size(node.args[0])  # type: ignore[arg-type]
    return node.op == "call_function" and (is_shape or of_size)


def _name(node: fx.Node, layers: Layers) -> str:
    """Return the name of the layer in the network, if possible, or else the name of its node."""
    name = str(node.target)
    usable = node.op == "call_module" and "." not in name and name not in layers
    return name if usable else node.name


def _layer(traced: fx.GraphModule, node: fx.Node, previous: fx.Node | None) -> nn.Module:
    """Return the layer that a node of a traced network represents."""
    inputs = [n for n in node.all_input_nodes if not _is_size(n)]
    if inputs != [previous]:
        raise NotAChain(f"{node.name} does not follow from the layer before it alone")
    if node.op == "call_module":
        layer = traced.get_submodule(str(node.target))
    elif node.target in ("view", "reshape") and len(node.args) == 3 and node.args[2] == -1:
        layer = nn.Flatten()
    elif node.target in FUNCTIONS:
        layer = _module_of_call(FUNCTIONS[node.target], node)
    else:
        raise NotAChain(f"it calls {node.target}, which is not among the known layers")
    _check_layer(str(node.target), layer)
    return layer


def _module_of_call(kind: type[nn.Module], node: fx.Node) -> nn.Module:
    """Return the module of a function call; the first arguments of both have the same order."""
    options = {k: v for k, v in node.kwargs.items() if k not in ("inplace", "training")}
    try:
        if len(node.args) > 4:
            raise TypeError("too many positional arguments")
        return kind(*node.args[1:], **options)
    except (TypeError, ValueError) as error:
        raise NotAChain(f"the arguments of {node.name} are not supported ({error})") from error


def _check_layer(name: str, layer: Any) -> None:  # noqa: ANN401
    """Raise NotAChain for a layer that is unknown or has an unsupported setting."""
    is_norm = isinstance(layer, NORMS)
    flattens = isinstance(layer, nn.Flatten) and (layer.start_dim, layer.end_dim)
    problems = {
        "returns indices": getattr(layer, "return_indices", False),
        "overrides its divisor": getattr(layer, "divisor_override", None),
        "has hooks": layer._forward_hooks or layer._forward_pre_hooks,
        "is a convolution with groups": isinstance(layer, nn.Conv2d) and layer.groups != 1,
        "has no running statistics": is_norm and layer.running_mean is None,
        "has a scale but no bias": is_norm and layer.affine and layer.bias is None,
        "does not flatten all dimensions except the first": flattens and flattens != (1, -1),
    }
    if type(layer) not in ARGUMENTS and not isinstance(layer, INACTIVE):
        raise NotAChain(f"{name} is a {type(layer).__name__}, which is not among the known layers")
    for problem, present in problems.items():
        if present:
            raise NotAChain(f"{name} {problem}")


def is_channels_last(module: nn.Module) -> bool:
    """Return whether the weights of all convolutions have the memory format ``channels_last``."""
    layout = torch.channels_last
    weights = [p for p in module.parameters() if p.dim() == 4]
    return bool(weights) and all(p.is_contiguous(memory_format=layout) for p in weights)


def arguments(layer: nn.Module) -> dict[str, Any]:
    """Return the arguments that construct a known layer."""
    options = {name: getattr(layer, name) for name in ARGUMENTS[type(layer)]}
    if "bias" in options:
        options["bias"] = layer.bias is not None
    return options
