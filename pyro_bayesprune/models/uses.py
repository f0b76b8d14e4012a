"""Which parameters a forward pass uses as connection weights, found by running it once."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pyro_bayesprune.models.module import BayesianModule, evaluation_mode

# Operations, and the positions of the operands that may be weights (None: all of them).
OPERATIONS: dict[str, tuple[int, ...] | None] = {
    "linear": (1,),
    "bilinear": (2,),
    "embedding": (1,),
    "embedding_bag": (0, 1),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), (1,)),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), (1,)),
    **dict.fromkeys(("matmul", "mm", "bmm", "mv", "einsum", "tensordot"), None),
    **dict.fromkeys(("__matmul__", "__rmatmul__", "addmm", "baddbmm", "addbmm", "addmv"), None),
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), None),
}
ATTENTION = ("in_proj_weight", "out_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


class _Operands(TorchFunctionMode):
    """Collects the operands of the operations that have weights."""

    def __init__(self) -> None:
        super().__init__()
        self.operands: list[Tensor] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Run an operation; note its operands."""
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if func is F.multi_head_attention_forward:
            bound = inspect.signature(func).bind(*args, **kwargs).arguments
            self.operands += _tensors([bound.get(weight) for weight in ATTENTION])
        elif name in OPERATIONS:
            places = OPERATIONS[name]
            given = [*args, *kwargs.values()]
            self.operands += _tensors(given if places is None else [given[i] for i in places])
        return func(*args, **kwargs)


def _tensors(values: Any) -> Iterator[Tensor]:  # noqa: ANN401
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def connection_weights(model: BayesianModule, x: Tensor) -> set[str]:
    """Return the names of the parameters that are used as weights of a linear operation.

    Linear layers, matrix products, convolutions, recurrent, attention and embedding layers. A
    weight may be computed from its parameter (weight_norm, spectral_norm, a mask): of the
    parameters that it is computed from, those of its own shape count. Gains of normalisation
    layers, biases, and what is added (positions, class tokens) are no connection weights.

    Args:
        model: the lifted network.
        x: inputs (n, ...); two are used.
    """
    point = {n: p.detach().requires_grad_() for n, p in model.named_weights().items()}
    x = x[:2].detach()
    if x.is_floating_point():
        x.requires_grad_()
    operands = _Operands()
    with evaluation_mode(model), torch.enable_grad(), torch.random.fork_rng(), operands:
        model.outputs(point, x)
    names = {id(value): name for name, value in point.items()}
    used = {name for operand in operands.operands for name in _parameters(operand, names, x)}
    return {name for name in used if point[name].dim() >= 2}


def _parameters(operand: Tensor, names: Mapping[int, str], x: Tensor) -> Iterator[str]:
    """Yield the parameters that an operand is, views, or is computed from without the inputs."""
    for value in (operand, operand._base):
        if id(value) in names:
            yield names[id(value)]
            return
    leaves = list(_leaves(operand))
    if not any(leaf is x for leaf in leaves):
        for leaf in leaves:
            if id(leaf) in names and leaf.shape == operand.shape:
                yield names[id(leaf)]


def _leaves(value: Tensor) -> Iterator[Tensor]:
    left, met = [value.grad_fn], set()
    while left:
        node: Any = left.pop()
        if node is None or node in met:
            continue
        met.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        left += [parent for parent, _ in node.next_functions]
