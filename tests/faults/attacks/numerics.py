"""Do decisions depend on the precision of numbers or on the number of threads?"""

import copy
import os
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from random import Random

import pandas as pd
import torch

import pyro_bayesprune as bp
from attacks import attack, fork
from attacks import ended as ended_
from pyro_bayesprune.data.builtin import DATA_VARIABLE

MARGIN = 1e-4  # nats an example: nearer to the threshold than this, either decision is right
THREADS = 1e-3  # nats an example: what another number of threads may change in a first epoch
SETTINGS = [
    ("propose", 0.9, 0.95),
    ("previous", 0.5, 0.9),
    ("propose", 0.5, 0.99),
    ("always", 0.9, 1),
]


def doubled(data: bp.Dataset) -> bp.Dataset:
    """The same examples in float64."""
    parts = {f.name: getattr(data, f.name) for f in fields(data)}
    is_float = {
        n for n, v in parts.items() if isinstance(v, torch.Tensor) and v.is_floating_point()
    }
    return bp.Dataset(**{n: v.double() if n in is_float else v for n, v in parts.items()})


def first_part(data: bp.Dataset, number: int) -> bp.Dataset:
    return bp.Dataset(data.train_x[:number], data.train_y[:number], name=data.name)


def data_sets(tries: int) -> Iterator[bp.Dataset]:
    """Digits, and a part of MNIST where it lies on this machine."""
    yield bp.load_dataset("digits")
    folder = os.environ.get(DATA_VARIABLE)
    if tries > 2 and folder and (Path(folder) / "mnist.safetensors").exists():
        yield first_part(bp.load_dataset("mnist"), 10_000)


def trained(data: bp.Dataset, setting: tuple, seed: int, double: bool, hidden: int = 64):
    """Train from the same initial weights, in float32 or float64; yields states and epochs."""
    gate, sparsity, beta = setting
    torch.manual_seed(seed)
    net = bp.FCN(data.shape, data.num_classes, (hidden, hidden))
    if double:
        net, data = net.double(), doubled(data)
    model = bp.BayesianModule(net, bp.priors.normal(0.3), data.num_train)
    rule = bp.Pruning("magnitude", sparsity=sparsity, gate=gate, beta=beta)
    for state, epoch in bp.train(model, data, pruning=rule, epochs=6, seed=seed):
        yield model, copy.deepcopy(state), epoch


def margin(epoch: object, n: int) -> float:
    """How far a step's nearest candidate was from the threshold, nats an example."""
    step = epoch.step
    return min((abs(t.bayes_factor.log - step.log_threshold) / n for t in step.tries), default=1.0)


@attack("numerics", "a float32 run's log joints, computed again in float64", full=4, quick=1)
def densities(tries: int, rng: Random, folder: Path) -> Iterator[str]:
    worst = 0.0
    for data in data_sets(tries):
        for setting in SETTINGS[:tries]:
            for model, state, epoch in trained(data, setting, 0, double=False):
                exact = bp.log_joint(
                    copy.deepcopy(model).double(),
                    {name: weight.double() for name, weight in state.weights.items()},
                    doubled(data),
                )
                worst = max(worst, abs(exact.total - epoch.step.after.total) / data.num_train)
        assert worst < MARGIN / 2, worst
        yield f"{data.name}: at most {worst:.1g} nats an example apart"


@attack("numerics", "the same trainings in float32 and float64: decisions", full=4, quick=1)
def precisions(tries: int, rng: Random, folder: Path) -> Iterator[str]:
    for data in data_sets(tries):
        for setting in SETTINGS[:tries]:
            pairs = zip(
                trained(data, setting, 0, False), trained(data, setting, 0, True), strict=True
            )
            apart = 0.0
            for (_, _, one), (_, _, other) in pairs:
                near = min(margin(one, data.num_train), margin(other, data.num_train))
                apart = max(apart, abs(one.step.before.total - other.step.before.total))
                same = (one.step.decision, one.step.sparsity) == (
                    other.step.decision, other.step.sparsity)  # fmt: skip
                assert same or near < max(MARGIN, 2 * apart / data.num_train), (setting, near)
                if not same:
                    yield f"{data.name}: another decision, within the margin of the threshold"
                    break
                yield f"{data.name}: the same decision"


def with_threads(number: int, data: bp.Dataset, out: Path) -> None:
    """Train with a number of threads, in a process of its own; leave the history behind."""

    def act() -> None:
        torch.set_num_threads(number)
        rows = [e.row() for _, _, e in trained(data, SETTINGS[0], 0, False, hidden=256)]
        pd.DataFrame(rows).to_pickle(out)

    assert ended_(fork(act)) == 0


@attack("numerics", "one thread, two threads, two again", full=2, quick=0)
def threads(tries: int, rng: Random, folder: Path) -> Iterator[str]:
    for data in data_sets(3 if tries > 1 else 1):
        found = []
        for turn, number in enumerate((1, 2, 2)):
            with_threads(number, data, folder / f"{data.name}{turn}")
            found.append(pd.read_pickle(folder / f"{data.name}{turn}"))
        one, two, again = found
        times = [name for name in one if name.startswith("seconds")]
        equal = two.drop(columns=times).equals(again.drop(columns=times))
        first = abs(one["log_joint_before"] - two["log_joint_before"])[0] / data.num_train
        assert equal, "the same number of threads gave another result"
        assert first < THREADS, first
        same = one["decision"].equals(two["decision"])
        yield (
            f"{data.name}: two threads twice are bit for bit equal; one and two differ by "
            f"{first:.1g} nats an example after an epoch, decisions "
            f"{'the same' if same else 'differ'}"
        )
