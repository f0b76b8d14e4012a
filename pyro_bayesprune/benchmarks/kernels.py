"""Sparse kernels for Linear layers."""

import copy
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn


class SparseLinear(nn.Module):
    """A Linear layer. ``multiply`` returns its weight times a tensor (in, n)."""

    def __init__(self, linear: nn.Linear, multiply: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.multiply = multiply
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of the layer."""
        y = self.multiply(x.T).T
        return y if self.bias is None else y + self.bias


def _torch_csr(linear: nn.Linear) -> SparseLinear:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state")
        weight = linear.weight.detach().to_sparse_csr()
    return SparseLinear(linear, lambda columns: weight @ columns)


def _scipy_csr(linear: nn.Linear) -> SparseLinear:
    from scipy.sparse import csr_array

    weight = csr_array(linear.weight.detach().numpy())
    return SparseLinear(linear, lambda columns: torch.from_numpy(weight @ columns.numpy()))


SPARSE = {"torch CSR": _torch_csr, "SciPy CSR": _scipy_csr}


def with_kernel(module: nn.Module, kernel: str) -> nn.Module:
    """Return a copy of a network whose Linear layers use the kernel: "dense" or one of `SPARSE`."""
    module = copy.deepcopy(module).eval()
    if kernel != "dense":
        for name, layer in list(module.named_modules()):
            if isinstance(layer, nn.Linear):
                module.set_submodule(name, SPARSE[kernel](layer))
    return module
