"""The parameters that a network uses as connection weights, determined by a forward pass."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from pyro_bayesprune.data.inputs import Inputs, tensors
from pyro_bayesprune.models.graphs import graph_nodes, outputs_of_two
from pyro_bayesprune.models.module import BayesianModule

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
    **dict.fromkeys(("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"), (2, 3)),
}
RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")  # their weights are the only list
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
        """Run an operation and record its operands."""
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if func is F.multi_head_attention_forward:
            bound = inspect.signature(func).bind(*args, **kwargs).arguments
            self.operands += _tensors([bound.get(weight) for weight in ATTENTION])
        elif name in RECURRENT:
            self.operands += _tensors([weights for weights in args if isinstance(weights, list)])
        elif name in OPERATIONS:
            places = OPERATIONS[name]
            operands = [*args, *kwargs.values()]
            self.operands += _tensors(operands if places is None else [operands[i] for i in places])
        return func(*args, **kwargs)


def _tensors(values: Any) -> list[Tensor]:  # noqa: ANN401
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def connection_weights(model: BayesianModule, x: Inputs) -> set[str]:
    """Return the names of the parameters that are used as weights of a linear operation.

    These are the weights of linear layers, matrix products, convolutions, recurrent layers,
    attention and embeddings. If a weight is computed from parameters (weight_norm, spectral_norm, a
    mask), the parameters of its own shape count. Gains of normalisation layers, biases, and
    parameters that are added (positions, class tokens) are no connection weights.

    Args:
        model: the lifted network.
        x: inputs (n, ...); two are used.
    """
    with _Operands() as record:
        _, x, point = outputs_of_two(model, x)
    names = {id(value): name for name, value in point.items()}
    used = {name for operand in record.operands for name in _parameters(operand, names, x)}
    return {name for name in used if point[name].dim() >= 2}


def _parameters(operand: Tensor, names: Mapping[int, str], x: Inputs) -> set[str]:
    """The parameters that an operand is, views, or is computed from without the inputs."""
    for value in (operand, operand._base):
        if id(value) in names:
            return {names[id(value)]}
    leaves = [node.variable for node in graph_nodes(operand) if hasattr(node, "variable")]
    if any(leaf is value for leaf in leaves for value in tensors(x)):
        return set()
    return {names[id(v)] for v in leaves if id(v) in names and v.shape == operand.shape}
