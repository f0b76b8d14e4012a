"""Sparse weight matrices: computation with the surviving entries only.

While its mask is fixed, the matrix of a linear layer is trained as the vector of its surviving
entries. ``y = x Wᵀ`` is then a sum over each row's survivors, and its gradients are two more such
sums. The dense matrix, its gradient and the optimiser's moments are neither computed nor stored.
"""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, linear
from torch.utils._pytree import tree_map

# Sparse kernels are faster for large matrices of which at most a quarter survives
# (reports/speed.md).
WORTHWHILE, LARGE = 0.25, 1 << 16


def worthwhile(weight: Tensor, mask: Tensor) -> bool:
    """Return whether a parameter is so large and sparse that training its survivors is faster."""
    able = weight.device.type == "cpu" and torch.backends.mkl.is_available()
    matrix = weight.dim() == 2 and weight.dtype in (torch.float32, torch.float64)
    few = 0 < mask.count_nonzero() <= WORTHWHILE * mask.numel()
    return able and matrix and weight.numel() >= LARGE and bool(few)


class Pattern:
    """The positions of a matrix's survivors.

    Args:
        mask: bool tensor (out, in), True where an entry survives.
        dtype: of the entries.
    """

    def __init__(self, mask: Tensor, dtype: torch.dtype) -> None:
        rows, columns = mask.nonzero().int().unbind(1)
        by_column = columns.argsort(stable=True)
        self.rows, self.columns = _starts(rows, len(mask)), columns.contiguous()
        self.rows_t, self.columns_t = _starts(columns, mask.shape[1]), rows[by_column]
        self.transposed = by_column.int()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*Sparse (CSR tensor support|invariant checks)")
            none = torch.zeros(len(columns), dtype=dtype)
            self.zeros = torch.sparse_csr_tensor(
                self.rows, self.columns, none, mask.shape, check_invariants=True
            )

    def times(self, values: Tensor, columns: Tensor) -> Tensor:
        """Return W @ columns, (out, n), for columns (in, n)."""
        return _weighted_sums(self.rows, self.columns, values, columns)

    def transposed_times(self, values: Tensor, columns: Tensor) -> Tensor:
        """Return Wᵀ @ columns, (in, n), for columns (out, n)."""
        values = values.index_select(0, self.transposed)
        return _weighted_sums(self.rows_t, self.columns_t, values, columns)

    def products(self, left: Tensor, right: Tensor) -> Tensor:
        """Return the survivors of leftᵀ @ right, for left (n, out) and right (n, in)."""
        return torch.sparse.sampled_addmm(self.zeros, left.T, right, beta=0.0).values()


def _starts(rows: Tensor, number: int) -> Tensor:
    """Offset of each row's first survivor, and the end of the last row: (number + 1,)."""
    counts = rows.bincount(minlength=number)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)]).int()


def _weighted_sums(rows: Tensor, members: Tensor, values: Tensor, table: Tensor) -> Tensor:
    # An embedding bag is a product of a sparse and a dense matrix: each output row is a weighted
    # sum of rows of the table.
    return embedding_bag(
        members, table, rows, mode="sum", per_sample_weights=values, include_last_offset=True
    )


class _SparseLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, pattern: Pattern) -> Tensor:  # noqa: ANN401
        ctx.pattern = pattern
        ctx.save_for_backward(x, values)
        return pattern.times(values, x.T.contiguous()).T.contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # noqa: ANN401
        x, values = ctx.saved_tensors
        by_input = None
        if ctx.needs_input_grad[0]:
            by_input = ctx.pattern.transposed_times(values, grad.T.contiguous()).T.contiguous()
        by_value = ctx.pattern.products(grad, x) if ctx.needs_input_grad[1] else None
        return by_input, by_value, None


class Surviving(Tensor):
    """A matrix (out, in) stored as its survivors; only linear layers compute with them directly."""

    vector: Tensor
    mask: Tensor
    pattern: Pattern

    @staticmethod
    def of(matrix: Tensor, vector: Tensor, mask: Tensor) -> "Surviving":
        """Return ``matrix`` with its survivors in ``vector``, a leaf that receives the gradient."""
        sparse = matrix.detach().as_subclass(Surviving)
        sparse.vector, sparse.mask, sparse.pattern = vector, mask, Pattern(mask, matrix.dtype)
        return sparse

    def dense(self) -> Tensor:
        """Return the matrix, differentiable with respect to the survivors."""
        return self.vector.new_zeros(self.mask.shape).masked_scatter(self.mask, self.vector)

    @classmethod
    def __torch_function__(
        cls,
        func: Callable,
        types: object,
        args: tuple = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Run a linear layer on the survivors, anything else on the dense matrix."""
        kwargs = kwargs or {}
        same = len(args) > 1 and isinstance(args[1], cls) and args[0].dtype == args[1].vector.dtype
        if func is linear and same and args[0].dim() == 2:
            y = _SparseLinear.apply(args[0], args[1].vector, args[1].pattern)
            bias = args[2] if len(args) > 2 else kwargs.get("bias")
            return y if bias is None else y + bias
        dense = tree_map(lambda a: a.dense() if isinstance(a, cls) else a, (args, dict(kwargs)))
        return func(*dense[0], **dense[1])
