"""Measure what a `Pruner` costs in a user's training loop.

    python reports/speed/own_loop.py

writes own_loop.csv: the time of a training step with a `Pruner` attached, divided by that of the
same loop with the prior as coupled weight decay. Both loops alternate in one process with one
thread, and the clock counts the time of this process only.
"""

from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import process_time

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Adam, Optimizer

import pyro_bayesprune as bp
from pyro_bayesprune._utils.process import flushed_denormals, memory_kept
from pyro_bayesprune.benchmarks.timing import QUARTILES, seconds

BATCH, STEPS = 64, 3


class Block(nn.Module):
    """A basic block of a ResNet (He et al., 2016): ``Block(channels, width, stride)``."""

    def __init__(self, channels: int, width: int, stride: int) -> None:  # noqa: D107
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        same = stride == 1 and channels == width
        self.skip = nn.Identity() if same else nn.Conv2d(channels, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return activations (n, width, ...) of inputs (n, channels, ...)."""
        return (self.body(x) + self.skip(x)).relu()


def resnet() -> nn.Module:
    """Return a ResNet of 8 layers for inputs (3, 32, 32), with 75,000 parameters."""
    blocks = [Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2)]
    stem = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    return nn.Sequential(*stem, *blocks, *head)


NETWORKS = {
    "FCN 512-512-512": (lambda: bp.FCN((1, 28, 28), 10, (512, 512, 512)), (1, 28, 28)),
    "ResNet-8": (resnet, (3, 32, 32)),
}
OPTIMISERS: dict[str, Callable[..., Optimizer]] = {
    "Adam": lambda params, decay: Adam(params, 1e-3, weight_decay=decay),
    "Adam, fused": lambda params, decay: Adam(params, 1e-3, weight_decay=decay, fused=True),
    "SGD, momentum": lambda params, decay: SGD(params, 1e-3, momentum=0.9, weight_decay=decay),
}
PRIORS = {"normal": bp.priors.normal(1.0), "student_t": bp.priors.student_t(3.0, 1.0)}


def loop(net: nn.Module, optimizer: Optimizer, x: Tensor, y: Tensor) -> Iterator[float]:
    """Train a network on batches, repeatedly."""
    while True:
        for batch in torch.arange(len(x)).split(BATCH):
            loss = cross_entropy(net(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield loss.item()


def competitors(network: str, optimiser: str) -> dict[str, Callable[[], object]]:
    """Return functions that run `STEPS` steps: coupled weight decay, and a `Pruner`."""
    build, shape = NETWORKS[network]
    x, y = torch.randn(STEPS * BATCH, *shape), torch.randint(10, (STEPS * BATCH,))
    net = build()
    loops = {"plain": loop(net, OPTIMISERS[optimiser](net.parameters(), 1 / len(x)), x, y)}
    for name, prior in PRIORS.items():
        for sparsity in (0.0, 0.9):
            net = build()
            options = {"gate": "always", "schedule": "constant", "scope": "layer"}
            pruning = bp.Pruning(sparsity=sparsity, **options)
            pruner = bp.Pruner(net, prior, len(x), pruning=pruning, epochs=1)
            pruner.attach(optimizer := OPTIMISERS[optimiser](net.parameters(), 0.0))
            pruner.step((x, y))
            loops[f"{name}, {sparsity:.0%} pruned"] = loop(net, optimizer, x, y)
    return {n: lambda run=run: [next(run) for _ in range(STEPS)] for n, run in loops.items()}


def measure(rounds: int) -> pd.DataFrame:
    """Return a row for each network, optimiser and competitor: the median ratio and quartiles."""
    rows = []
    for network in NETWORKS:
        for optimiser in OPTIMISERS:
            with flushed_denormals(), memory_kept():
                times = seconds(competitors(network, optimiser), rounds, timer=process_time)
            ratios = times.div(times["plain"], axis=0).quantile(QUARTILES)
            for what in times:
                row = {"network": network, "optimiser": optimiser, "what": what}
                row |= dict(zip(("ratio", "low", "high"), ratios[what], strict=True))
                rows.append(row | {"milliseconds": 1e3 * times[what].median() / STEPS})
    return pd.DataFrame(rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write the table."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("reports/speed"), help="output folder")
    parser.add_argument("--rounds", type=int, default=25, help="number of rounds")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    table = measure(args.rounds)
    table.to_csv(args.out / "own_loop.csv", index=False, float_format="%.4g")
    print(table.to_string(index=False, float_format="{:.3f}".format))


if __name__ == "__main__":
    main()
