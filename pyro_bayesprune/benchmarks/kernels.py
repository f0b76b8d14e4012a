"""Sparse kernels for Linear layers, and their speed beside the dense one."""

import copy
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor, nn

Predict = Callable[[Tensor], Tensor]
GAIN = 1.05  # a speed-up counts from here on, at the lower quartile
SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)


@dataclass(frozen=True)
class Setting:
    """How to measure.

    Args:
        batches: batch sizes.
        rounds: how often each variant has its turn; medians and quartiles are over rounds.
        seconds: about how long a turn lasts, at least a call.
        threads: of every engine (SciPy's kernels have one).
        memory: whether to start a fresh process for each variant to measure its memory.
    """

    batches: tuple[int, ...] = (1, 64, 512)
    rounds: int = 41
    seconds: float = 0.005  # short, so that what else the machine does hits few of them
    threads: int = 1
    memory: bool = True


class TorchCSR(nn.Module):
    """A Linear layer whose weight is a torch CSR tensor: inputs (n, in), outputs (n, out)."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state")
            self.weight = linear.weight.detach().to_sparse_csr()
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's outputs."""
        y = (self.weight @ x.T).T
        return y if self.bias is None else y + self.bias


class SciPyCSR(nn.Module):
    """A Linear layer whose weight is a SciPy CSR array: inputs (n, in), outputs (n, out)."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        from scipy.sparse import csr_array

        self.weight = csr_array(linear.weight.detach().numpy())
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's outputs."""
        y = torch.from_numpy((self.weight @ x.numpy().T).T)
        return y if self.bias is None else y + self.bias


KERNELS: dict[str, Callable[[nn.Linear], nn.Module]] = {
    "dense": lambda linear: linear,
    "torch CSR": TorchCSR,
    "SciPy CSR": SciPyCSR,
}


def with_kernels(module: nn.Module, kernels: Mapping[str, str]) -> nn.Module:
    """Return a copy with the Linear layers that ``kernels`` names run by a kernel of `KERNELS`.

    Args:
        module: a network on the CPU.
        kernels: a kernel's name for each layer's name, as in ``named_modules()``.
    """
    module = copy.deepcopy(module).eval()
    for name, kernel in kernels.items():
        parent, _, child = name.rpartition(".")
        linear = module.get_submodule(name)
        module.get_submodule(parent).register_module(child, KERNELS[kernel](linear))  # type: ignore[arg-type]
    return module


def linear_layers(module: nn.Module) -> dict[str, nn.Linear]:
    """Return a network's Linear layers by name."""
    return {n: m for n, m in module.named_modules() if isinstance(m, nn.Linear)}


@torch.inference_mode()
def latencies(runs: Mapping[str, Predict], x: Tensor, setting: Setting) -> dict[str, list[float]]:
    """Return the seconds a call takes in each round, by name; the runs alternate.

    A turn repeats the call for about ``setting.seconds`` (weights stay in the caches, as in a
    service) and counts its mean. Some calls, which also find their number, come before the first.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    calls = {}
    for name, run in runs.items():
        fastest = min(_seconds(run, x, 1) for _ in range(5))
        calls[name] = max(1, round(setting.seconds / fastest))
    for _ in range(setting.rounds):
        for name, run in runs.items():
            times[name].append(_seconds(run, x, calls[name]))
    return times


def _seconds(run: Predict, x: Tensor, calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        run(x)
    return (time.perf_counter() - started) / calls


def spread(numbers: Sequence[float]) -> list[float]:
    """Return the median and both quartiles."""
    low, _, high = quantiles(numbers, n=4, method="inclusive")
    return [median(numbers), low, high]


def speed_up(dense: Sequence[float], other: Sequence[float]) -> list[float]:
    """Return median and quartiles, over rounds, of how many times faster ``other`` is."""
    return spread([a / b for a, b in zip(dense, other, strict=True)])


def layer_rows(module: nn.Module, batch: int, setting: Setting) -> list[dict[str, Any]]:
    """Return a row for each Linear layer: kernels' speed at its own zeros, and their crossover.

    A crossover is the smallest sparsity, of random zeros in a layer of the same shape, from which
    on the kernel is faster than the dense one at all that were tried; None where there is none.
    """
    crossovers: dict[tuple[int, ...], dict[str, float | None]] = {}
    rows = []
    for name, linear in linear_layers(module).items():
        shape = tuple(linear.weight.shape)
        if shape not in crossovers:
            crossovers[shape] = _crossovers(shape, batch, setting)
        speeds = kernel_speeds(linear, batch, setting)
        best = max(speeds, key=lambda kernel: speeds[kernel][0])
        rows.append(
            {
                "layer": name,
                "shape": list(shape),
                "batch": batch,
                "sparsity": (linear.weight == 0).double().mean().item(),
                "speed_up": speeds,
                "crossover": crossovers[shape],
                "recommended": best if speeds[best][1] >= GAIN else "dense",
            }
        )
    return rows


def kernel_speeds(linear: nn.Linear, batch: int, setting: Setting) -> dict[str, list[float]]:
    """Return how many times faster than dense each sparse kernel runs a layer: median, quartiles.

    Args:
        linear: the layer.
        batch: number of inputs.
        setting: how to measure; in half as many rounds.
    """
    x = torch.randn(batch, linear.in_features, generator=torch.Generator().manual_seed(0))
    runs = {name: kernel(linear) for name, kernel in KERNELS.items()}
    times = latencies(runs, x, replace(setting, rounds=max(3, setting.rounds // 2)))
    return {name: speed_up(times["dense"], t) for name, t in times.items() if name != "dense"}


def _crossovers(shape: tuple[int, ...], batch: int, setting: Setting) -> dict[str, float | None]:
    found: dict[str, float | None] = dict.fromkeys((k for k in KERNELS if k != "dense"), None)
    open_ones, generator = set(found), torch.Generator().manual_seed(0)
    for level in reversed(SPARSITIES):
        linear = nn.utils.skip_init(nn.Linear, shape[1], shape[0])
        weight = torch.randn(shape, generator=generator)
        linear.weight.data = weight * (torch.rand(shape, generator=generator) >= level)
        linear.bias.data.zero_()
        speeds = kernel_speeds(linear, batch, setting)
        open_ones = {kernel for kernel in open_ones if speeds[kernel][0] > 1}
        found |= dict.fromkeys(open_ones, level)
    return found
