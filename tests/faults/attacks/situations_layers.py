"""Modules that densities cannot rely on, checkpoints, and models that close over a module."""

import warnings
from collections.abc import Callable
from functools import partial

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

import pyro_bayesprune as bp
from attacks.situations import classes, fitted, refusal, situation
from attacks.situations_modules import Body


@situation(
    "a last batch of one example under BatchNorm",
    "it joins the batch before it",
    {
        "65 examples in batches of 64": (65, 64),
        "9 of 4": (9, 4),
        "5 of 2": (5, 2),
        "33 of 16": (33, 16),
    },
)
def last_batch(sizes: tuple[int, int]) -> None:
    number, batch_size = sizes
    fit = fitted(Body(nn.BatchNorm1d(8)), classes(number), batch_size=batch_size)
    assert len(fit.history) == 2


@situation(
    "BatchNorm that densities cannot rely on",
    "refused in one sentence before training",
    {
        "batches of one": (nn.BatchNorm1d(8), {"batch_size": 1}, 9, "batches of one example"),
        "one example": (nn.BatchNorm1d(8), {}, 1, "batches of one example"),
        "without running statistics": (
            nn.BatchNorm1d(8, track_running_stats=False),
            {},
            9,
            "track_running_stats=False",
        ),
        "one of two without": (
            nn.Sequential(nn.BatchNorm1d(8), nn.BatchNorm1d(8, track_running_stats=False)),
            {},
            9,
            "track_running_stats=False",
        ),
    },
)
def batch_norm(member: tuple[nn.Module, dict, int, str]) -> None:
    middle, options, number, words = member
    refusal(words, lambda: fitted(Body(middle), classes(number), **options))


class Checkpointed(Body):
    """Layers behind a checkpoint."""

    def __init__(self, where: str, reentrant: bool | None) -> None:
        super().__init__(nn.Linear(8, 8))
        self.where, self.reentrant = where, reentrant

    def forward(self, x: Tensor) -> Tensor:
        run = partial(checkpoint, use_reentrant=self.reentrant)
        if self.reentrant is None:
            run = self._directly
        if self.where == "first":
            return self.b(torch.tanh(self.middle(run(self.a, x))))
        if self.where == "last":
            return run(self.b, torch.tanh(self.middle(self.a(x))))
        if self.where == "several":
            return self.b(run(nn.Sequential(self.a, nn.Tanh(), self.middle), x))
        return self.b(torch.tanh(run(lambda h: self.middle(torch.relu(h)), self.a(x))))

    def _directly(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return function(x)


@situation(
    "checkpoint(..., use_reentrant=True)",
    "refused in one sentence before training",
    {"the first layer": "first", "the last": "last", "several": "several", "a function": "lambda"},
)
def reentrant(where: str) -> None:
    warnings.simplefilter("ignore")  # torch's own, where no gradient is asked for
    refusal("use_reentrant=False", lambda: fitted(Checkpointed(where, True), classes()))


@situation(
    "checkpoint(..., use_reentrant=False)",
    "trains as without it, bit for bit",
    {"the first layer": "first", "the last": "last", "several": "several", "a function": "lambda"},
)
def checkpointed(where: str) -> None:
    data, net, plain = classes(), Checkpointed(where, False), Checkpointed(where, None)
    plain.load_state_dict(net.state_dict())
    fits = [fitted(n, data) for n in (net, plain)]
    assert all(torch.equal(w, fits[1].weights[n]) for n, w in fits[0].weights.items())


def closing(net: nn.Module, wrap: Callable = lambda f: f) -> Callable:
    """A model written by hand that closes over a module."""
    shapes = {n: p.shape for n, p in net.named_parameters()}

    def model(x: Tensor, y: Tensor | None = None) -> Tensor:
        normal = {n: dist.Normal(0.0, 1.0).expand(s).to_event(len(s)) for n, s in shapes.items()}
        weights = {n: pyro.sample(n, prior) for n, prior in normal.items()}
        with pyro.plate("data", 64, subsample=x):
            logits = functional_call(net, weights, (x,))
            return pyro.sample("obs", dist.Categorical(logits=logits), obs=y)

    return wrap(model)


@situation(
    "a model written by hand that closes over a module in training mode",
    "densities are those of evaluation mode; statistics do not move",
    {
        "dropout": lambda: closing(Body(nn.Dropout(0.5))),
        "BatchNorm": lambda: closing(Body(nn.BatchNorm1d(8))),
        "dropout inside a block": lambda: closing(
            Body(nn.Sequential(nn.Linear(8, 8), nn.Dropout()))
        ),
        "under a handler": lambda: closing(
            Body(nn.Dropout()), partial(pyro.poutine.scale, scale=1.0)
        ),
        "a partial function": lambda: closing(Body(nn.Dropout(0.5)), partial),
    },
)
def closed_over(make: Callable[[], Callable]) -> None:
    data, model = classes(), make()
    trace = pyro.poutine.trace(model).get_trace(*data)
    names = [n for n in trace.stochastic_nodes if n not in ("data", "obs")]
    weights = {name: trace.nodes[name]["value"] for name in names}
    totals = {bp.log_joint(model, weights, data).total for _ in range(3)}
    assert len(totals) == 1, totals
