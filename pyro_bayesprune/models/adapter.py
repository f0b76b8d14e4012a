"""The one place where a network is called: with its inputs, and under weights from outside."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from pyro_bayesprune.data.inputs import Inputs

Forward = Callable[[nn.Module, Any], Any]


class _Adapted(nn.Module):
    """A network that is called by a function of the user's."""

    def __init__(self, net: nn.Module, function: Forward) -> None:
        super().__init__()
        self.net, self.function = net, function

    def forward(self, x: Inputs) -> Any:  # noqa: ANN401  (of the user's function)
        """Return the function's result."""
        return self.function(self.net, x)


def network_outputs(
    net: nn.Module, weights: Mapping[str, Tensor], x: Inputs, forward: Forward | None = None
) -> Tensor:
    """Return a network's outputs (n, ...) for inputs under weights by name.

    Args:
        net: the network; it keeps its own weights.
        weights: values for some or all of its parameters.
        x: a tensor, a tuple (passed as ``net(*x)``) or a dictionary (passed as ``net(**x)``).
        forward: function ``(net, x) -> outputs`` that calls the network instead.

    Raises:
        ValueError: unless the result is one tensor, or has one tensor under the name ``logits``.
    """
    if forward is not None:
        weights = {f"net.{name}": value for name, value in weights.items()}
        result = _called(_Adapted(net, forward), weights, (x,))
    elif isinstance(x, Mapping):
        result = _called(net, weights, (), dict(x))
    else:
        result = _called(net, weights, (x,) if isinstance(x, Tensor) else tuple(x))
    return _one_tensor(net, result)


def _called(
    net: nn.Module,
    weights: Mapping[str, Tensor],
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None = None,
) -> Any:  # noqa: ANN401
    """Call a network under weights, which also replace other parameters that are tied to them.

    With ``tie_weights=True``, torch 2.14 leaves the values in a module that has two names.
    """
    first: dict[int, str] = {}
    values = dict(weights)
    for prefix, module in net.named_modules():  # a module with two names has the first one only
        for name, parameter in module.named_parameters(prefix, recurse=False):
            source = first.setdefault(id(parameter), name)
            if source in weights:
                values[name] = weights[source]
    return functional_call(net, values, args, kwargs, tie_weights=False)


def _one_tensor(net: nn.Module, result: Any) -> Tensor:  # noqa: ANN401
    if isinstance(result, Tensor):
        return result
    logits = result.get("logits") if isinstance(result, Mapping) else None
    logits = getattr(result, "logits", logits)
    if isinstance(logits, Tensor):
        return logits
    raise ValueError(
        f"{type(net).__name__} must return one tensor of outputs (n, ...) or a result with "
        f"'logits', got a {type(result).__name__}: choose the tensor by forward=, for example "
        f"forward=lambda net, x: net(x)[0]"
    )
