"""Sparse kernels for Linear layers, and their speed compared with the dense kernel."""

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median, quantiles
from timeit import Timer
from typing import Any

import torch
from torch import Tensor, nn

Predict = Callable[[Tensor], Tensor]
GAIN = 1.05  # a speed-up counts as a gain if its lower quartile is at least this
SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)


@dataclass(frozen=True)
class Setting:
    """How to measure."""

    batches: tuple[int, ...] = (1, 64, 512)
    rounds: int = 41  # measurements of each variant
    seconds: float = 0.005  # duration of one; short, so that other processes disturb few of them
    threads: int = 1  # of each engine; SciPy always uses one
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


KERNELS: dict[str, Callable[[nn.Linear], nn.Module]] = {
    "dense": lambda linear: linear,
    "torch CSR": _torch_csr,
    "SciPy CSR": _scipy_csr,
}
SPARSE = [name for name in KERNELS if name != "dense"]


def with_kernels(module: nn.Module, kernels: Mapping[str, str]) -> nn.Module:
    """Return a copy of a network in which the named Linear layers use these `KERNELS`."""
    module = copy.deepcopy(module).eval()
    for name, kernel in kernels.items():
        parent, _, child = name.rpartition(".")
        linear = module.get_submodule(name)
        module.get_submodule(parent).register_module(child, KERNELS[kernel](linear))  # type: ignore[arg-type]
    return module


def linear_layers(module: nn.Module) -> dict[str, nn.Linear]:
    """Return the Linear layers of a network by name."""
    return {n: m for n, m in module.named_modules() if isinstance(m, nn.Linear)}


@torch.inference_mode()
def latencies(runs: Mapping[str, Predict], x: Tensor, setting: Setting) -> dict[str, list[float]]:
    """Return the mean seconds of a call in each round, by name. The functions alternate.

    One measurement repeats the call for about ``setting.seconds``, so the weights are in the
    caches, as in a service. A few calls before the first round determine the number of repetitions.
    """
    timers = {name: Timer(partial(run, x), "gc.enable()") for name, run in runs.items()}
    fastest = {name: min(timer.repeat(5, 1)) for name, timer in timers.items()}
    calls = {name: max(1, round(setting.seconds / fastest[name])) for name in runs}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(setting.rounds):
        for name, timer in timers.items():
            times[name].append(timer.timeit(calls[name]) / calls[name])
    return times


def spread(numbers: Sequence[float]) -> list[float]:
    """Return the median and both quartiles."""
    low, _, high = quantiles(numbers, n=4, method="inclusive")
    return [median(numbers), low, high]


def speed_up(dense: Sequence[float], other: Sequence[float]) -> list[float]:
    """Return median and quartiles, over rounds, of how many times faster ``other`` is."""
    return spread([a / b for a, b in zip(dense, other, strict=True)])


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
    runs = {name: kernel(linear) for name, kernel in KERNELS.items()}
    times = latencies(runs, x, replace(setting, rounds=max(3, setting.rounds // 2)))
    return {name: speed_up(times["dense"], times[name]) for name in SPARSE}


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
