"""Situations from public bug reports: kinds, the members that are tried, what happens with each."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import pyro
import torch
from scipy.stats import binom
from torch import nn

import pyro_bayesprune as bp
from attacks import ATTACKS, Attack

AREA = "situations from public bug reports"
Check = Callable[[Any], None]


def situation(
    kind: str, outcome: str, members: Mapping[str, Any], quick: int | None = None
) -> Callable[[Check], Check]:
    """Enter a check that is made of each member; ``outcome`` says what happens where it passes.

    The quick form, which the tests run, tries the first ``quick`` members, by default all.
    """

    def enter(check: Check) -> Check:
        def run(tries: int, rng: Random, folder: Path) -> Iterator[str]:
            for name, member in list(members.items())[:tries]:
                torch.manual_seed(0)
                try:
                    with warnings.catch_warnings():
                        check(member)
                except Exception as error:
                    raise AssertionError(f"{name}: {type(error).__name__}: {error}") from error
                yield outcome

        what = f"{kind}: {', '.join(members)}"
        ATTACKS.append(Attack(AREA, what, len(members), quick or len(members), run))
        return check

    return enter


def refusal(words: str, act: Callable[[], object], kind: type[Exception] = ValueError) -> None:
    """An act is refused in one sentence that has these words."""
    try:
        act()
    except kind as error:
        assert words in str(error) and "\n" not in str(error), str(error)
        return
    raise AssertionError(f"not refused: {words}")


def classes(n: int = 64, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random inputs (n, *shape), by default five features, and three classes."""
    return torch.randn(n, *(shape or (5,))), torch.arange(n) % 3


def fitted(net: nn.Module, data: tuple, **options: Any) -> bp.Fit:
    """A short fit of a network that prunes half of the weights."""
    options = {"pruning": bp.Pruning(sparsity=0.5, gate="always"), "epochs": 2} | options
    model = bp.BayesianModule(net, bp.priors.normal(1.0), len(data[0]))
    return bp.fit(model, data, progress=False, **options)


OPTIMISERS = {
    "AdamW": lambda: pyro.optim.AdamW({"lr": 0.02}),
    "Adam with decoupled decay": lambda: pyro.optim.Adam(
        {"lr": 0.02, "decoupled_weight_decay": True}
    ),
    "RMSprop": lambda: pyro.optim.RMSprop({"lr": 0.002}),
    "SGD with momentum": lambda: pyro.optim.SGD({"lr": 0.05, "momentum": 0.9}),
    "AdamW with amsgrad": lambda: pyro.optim.AdamW({"lr": 0.02, "amsgrad": True}),
    "NAdam with decoupled decay": lambda: pyro.optim.NAdam(
        {"lr": 0.02, "decoupled_weight_decay": True}
    ),
    "Adagrad": lambda: pyro.optim.Adagrad({"lr": 0.5}),
    "clipped Adam": lambda: pyro.optim.ClippedAdam({"lr": 0.02}),
}


@situation("an optimiser and the prior", "the mode is that of ridge regression", OPTIMISERS, 4)
def ridge(optim: Callable[[], object]) -> None:
    x = torch.randn(50, 3)
    y = x @ torch.tensor([[1.0], [2.0], [-1.0]])
    expected = torch.linalg.solve(x.T @ x + 100 * torch.eye(3), x.T @ y).T
    net = nn.Linear(3, 1, bias=False)
    model = bp.BayesianModule(net, bp.priors.normal(0.1), 50, bp.gaussian(1.0))
    fit = bp.fit(model, (x, y), epochs=500, batch_size=50, optim=optim(), progress=False)
    torch.testing.assert_close(fit.weights["weight"], expected, rtol=0, atol=1e-2)


class Unused(nn.Module):
    """A layer that the outputs do not depend on, beside one that they do."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(5, 3), nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(x)


@situation("a parameter that no output uses", "it moves to the mode of its prior", OPTIMISERS, 4)
def unused(optim: Callable[[], object]) -> None:
    x, y = classes()
    model = bp.BayesianModule(Unused(), bp.priors.normal(0.1), 64)
    fit = bp.fit(model, (x, y), epochs=400, batch_size=64, optim=optim(), progress=False)
    assert fit.weights["unused.weight"].abs().max() < 0.03


@situation("a fit that is continued twice", "the same weights bit for bit", OPTIMISERS)
def continued(optim: Callable[[], object]) -> None:
    data, model = classes(), bp.BayesianModule(nn.Linear(5, 3), bp.priors.normal(1.0), 64)
    first = bp.fit(model, data, epochs=2, optim=optim(), progress=False)
    rest = {"epochs": 4, "state": first.state, "progress": False}
    once, twice = (bp.fit(model, data, optim=optim(), **rest) for _ in range(2))
    assert all(torch.equal(once.weights[n], twice.weights[n]) for n in once.weights)


@situation(
    "an annealed fit that is continued",
    "its first epoch is trained at the rate of the longer schedule",
    {"4 to 5 epochs": (4, 5), "4 to 8": (4, 8), "1 to 10": (1, 10), "6 to 7": (6, 7)},
)
def annealed(epochs: tuple[int, int]) -> None:
    data, model = classes(), bp.BayesianModule(nn.Linear(5, 3), bp.priors.normal(1.0), 64)
    first = bp.fit(model, data, epochs=epochs[0], progress=False)
    training = bp.train(model, data, epochs=epochs[1], state=first.state)
    state, _ = next(training)
    moved = (state.weights["weight"] - first.weights["weight"]).abs().max()
    assert moved > 1e-5, moved


def _few_large(count: int, size: float) -> torch.Tensor:
    """Differences near zero but for a few large ones, in random order."""
    differences = 1e-3 * torch.randn(20_000, dtype=torch.float64)
    differences[torch.randperm(20_000)[:count]] += size
    return differences


@situation(
    "rare large differences under sequential evaluation",
    "of 200 orders no more than alpha = 0.01 explains decide otherwise than all data",
    {
        "a feature of 0.1% of the examples": lambda: _few_large(20, -5.0),
        "one of 0.2%": lambda: _few_large(40, -5.0),
        "one of 1%": lambda: _few_large(200, -5.0),
        "all equal but 20": lambda: _few_large(20, -5.0).round(),
        "log-normal tails": lambda: -torch.randn(20_000, dtype=torch.float64).mul(2.5).exp(),
        "Student t tails, 2 degrees of freedom": lambda: (
            torch.distributions.StudentT(2.0).sample((20_000,)).double()
        ),
    },
)
def sequential(make: Callable[[], torch.Tensor]) -> None:
    from pyro_bayesprune.pruning.sequential import estimate_sum

    differences, wrong = make(), 0
    total = differences.sum().item()
    threshold = total / 2
    for _ in range(200):
        shuffled = differences[torch.randperm(len(differences))]
        options = {"constant": 0.0, "threshold": threshold, "alpha": 0.01}
        estimate = estimate_sum(lambda t, d=shuffled: d[:t], len(shuffled), **options)
        wrong += (estimate.value > threshold) != (total > threshold)
    assert wrong <= binom.ppf(0.999, 200, 0.01), wrong


from attacks import (  # noqa: E402, F401
    situations_files,
    situations_layers,
    situations_modules,
    situations_process,
)
