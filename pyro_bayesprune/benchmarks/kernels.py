"""Sparse kernels for Linear layers, and their speed compared with the dense kernel."""

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from pyro_bayesprune.benchmarks.timing import QUARTILES, seconds

Predict = Callable[[Tensor], Tensor]
GAIN = 1.05  # a speed-up counts as a gain if its lower quartile is at least this
SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)


@dataclass(frozen=True)
class Setting:
    """How to measure."""

    batches: tuple[int, ...] = (1, 64, 512)
    rounds: int = 41  # measurements of each variant
    seconds: float = 0.005  # duration of one; short, so that other processes disturb few of them
    memory: bool = True  # whether to measure the memory of each variant, in a new process


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
        for name, linear in linear_layers(module).items():
            module.set_submodule(name, SPARSE[kernel](linear))
    return module


def linear_layers(module: nn.Module) -> dict[str, nn.Linear]:
    """Return the Linear layers of a network by name."""
    return {n: m for n, m in module.named_modules() if isinstance(m, nn.Linear)}


@torch.inference_mode()
def latencies(runs: Mapping[str, Predict], x: Tensor, setting: Setting) -> pd.DataFrame:
    """Return the mean seconds of a call of each function (columns) in each round (rows).

    A measurement repeats the call, so the weights are in the caches, as in a service.
    """
    calls = {name: partial(run, x) for name, run in runs.items()}
    return seconds(calls, setting.rounds, setting.seconds)


def speed_up(times: pd.DataFrame, name: str) -> list[float]:
    """Return how many times faster than ``dense`` a function is: median and quartiles."""
    return (times["dense"] / times[name]).quantile(QUARTILES).tolist()


def layer_rows(module: nn.Module, batch: int, setting: Setting) -> Iterator[dict[str, Any]]:
    """Yield a row for each Linear layer: its sparsity, and speed-up and crossover of each kernel.

    The crossover is the smallest of `SPARSITIES` from which on the kernel is always faster than the
    dense one, or None. It is measured on random zeros in a layer of the same shape.
    """
    layers = linear_layers(module)
    shapes = {name: tuple(layer.weight.shape) for name, layer in layers.items()}
    crossovers = {shape: _crossovers(shape, batch, setting) for shape in set(shapes.values())}
    for name, linear in layers.items():
        speeds = _speed_ups(linear, batch, setting)
        best = max(speeds, key=lambda kernel: speeds[kernel][0])
        yield {
            "layer": name,
            "shape": list(shapes[name]),
            "batch": batch,
            "sparsity": (linear.weight == 0).double().mean().item(),
            "speed_up": speeds,
            "crossover": crossovers[shapes[name]],
            "recommended": best if speeds[best][1] >= GAIN else "dense",
        }


def _speed_ups(linear: nn.Linear, batch: int, setting: Setting) -> dict[str, list[float]]:
    """Return the speed-up of each sparse kernel for a layer, with half as many rounds."""
    x = torch.randn(batch, linear.in_features, generator=torch.Generator().manual_seed(0))
    layers = {"dense": linear} | {name: kernel(linear) for name, kernel in SPARSE.items()}
    times = latencies(layers, x, replace(setting, rounds=max(3, setting.rounds // 2)))
    return {name: speed_up(times, name) for name in SPARSE}


def _crossovers(shape: tuple[int, ...], batch: int, setting: Setting) -> dict[str, float | None]:
    crossovers: dict[str, float | None] = dict.fromkeys(SPARSE)
    faster, generator = set(SPARSE), torch.Generator().manual_seed(0)
    for level in reversed(SPARSITIES):
        linear = nn.utils.skip_init(nn.Linear, shape[1], shape[0])
        weight = torch.randn(shape, generator=generator)
        linear.weight.data = weight * (torch.rand(shape, generator=generator) >= level)
        linear.bias.data.zero_()
        speeds = _speed_ups(linear, batch, setting)
        faster = {kernel for kernel in faster if speeds[kernel][0] > 1}
        crossovers |= dict.fromkeys(faster, level)
    return crossovers
