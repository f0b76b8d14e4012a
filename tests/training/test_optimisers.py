"""Every optimiser of PyTorch, in the settings of users' loops: what is pruned stays at zero.

The table of docs/guides/own_loop.md is written by ``python tests/training/test_optimisers.py``.
"""

import inspect
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

import pyro_bayesprune as bp

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "own_loop.md"
START, END = "<!-- optimisers -->\n", "<!-- end -->"
NAMES = ["SGD", "SGD, momentum", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adafactor"]
NAMES += ["Adagrad", "Adadelta", "RMSprop", "Rprop", "ASGD", "Muon", "LBFGS"]
SETTINGS = ["plain", "clipping", "accumulation", "bfloat16", "GradScaler", "closure"]
SETTINGS += ["foreach", "fused", "compiled"]
X, Y = torch.randn(24, 6, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 3


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)
    )


def optimisers(name, net, setting):
    """The optimisers of a network's parameters; None where one has no such setting."""
    kind = getattr(torch.optim, name.split(",")[0])
    options = {"momentum": 0.9} if name == "SGD, momentum" else {}
    accepted = inspect.signature(kind).parameters
    if setting in ("foreach", "fused"):
        if setting not in accepted:
            return None
        options[setting] = True
    if "weight_decay" in accepted:
        options["weight_decay"] = 0.0
    if name != "Muon":
        return [kind(net.parameters(), lr=0.01, **options)]
    matrices = [p for p in net.parameters() if p.dim() == 2]
    vectors = [p for p in net.parameters() if p.dim() != 2]
    return [kind(matrices, lr=0.01, **options), torch.optim.SGD(vectors, lr=0.01)]


def step(forward, net, opts, setting, scaler):
    """A training step of a user's loop."""

    def loss(x=X, y=Y):
        with torch.autocast("cpu", torch.bfloat16, enabled=setting == "bfloat16"):
            return cross_entropy(forward(x), y)

    def closure():
        net.zero_grad()
        value = loss()
        value.backward()
        return value

    if setting == "closure":
        for optimizer in opts:
            optimizer.step(closure)
        return
    net.zero_grad()
    for part in range(2 if setting == "accumulation" else 1):
        half = slice(12 * part, 12 * part + 12)
        value = loss(X[half], Y[half]) / 2 if setting == "accumulation" else loss()
        scaler.scale(value).backward()
    if setting == "clipping":
        clip_grad_norm_(net.parameters(), 0.1)
    for optimizer in opts:
        scaler.step(optimizer)
    scaler.update()


def survives(name, setting):
    """Whether pruned weights are exactly zero after every step, and others change."""
    net = network()
    try:
        opts = optimisers(name, net, setting)
    except RuntimeError as error:
        assert "fused" in str(error)  # not on the CPU
        return None
    if opts is None:
        return None
    pruning = bp.Pruning(sparsity=0.5, gate="always", schedule="constant", scope="layer")
    pruner = bp.Pruner(net, bp.priors.student_t(3.0, 0.3), 24, epochs=2, pruning=pruning)
    for optimizer in opts:
        pruner.attach(optimizer)
    forward = torch.compile(net, backend="aot_eager") if setting == "compiled" else net
    scaler = torch.amp.GradScaler("cpu", enabled=setting == "GradScaler")
    for _ in range(2):
        step(forward, net, opts, setting, scaler)
    pruner.step((X, Y))
    before, zero = pruner.weights, True
    for _ in range(3):
        step(forward, net, opts, setting, scaler)
        weights = dict(net.named_parameters())
        zero &= not any(weights[n].detach()[~m].any() for n, m in pruner.masks.items())
    moved = all((pruner.weights[n] != before[n])[m].any() for n, m in pruner.masks.items())
    return zero and moved and all((~mask).any() for mask in pruner.masks.values())


def cell(name, setting):
    """What the table says: yes, or why not."""
    if name == "LBFGS":
        return "refused"
    if not hasattr(torch.optim, name.split(",")[0]):
        pytest.skip(f"this torch has no {name}")
    result = survives(name, setting)
    return "–" if result is None else ("yes" if result else "NO")


def table():
    head = f"| optimiser | {' | '.join(SETTINGS)} |\n|{' --- |' * (len(SETTINGS) + 1)}\n"
    rows = [[name, *(cell(name, setting) for setting in SETTINGS)] for name in NAMES]
    return head + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def documented():
    """The cells of the page's table by optimiser and setting."""
    text = PAGE.read_text().split(START)[1].split(END)[0]
    head, _, *rows = [line.strip("| \n").split(" | ") for line in text.splitlines()]
    return {(row[0], s): value for row in rows for s, value in zip(head[1:], row[1:], strict=True)}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_pruned_stays_zero_as_the_table_says(name):
    expected = documented()
    for setting in SETTINGS:
        assert cell(name, setting) == expected[name, setting] != "NO", setting


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    before, rest = PAGE.read_text().split(START)
    PAGE.write_text(before + START + table() + END + rest.split(END)[1])
