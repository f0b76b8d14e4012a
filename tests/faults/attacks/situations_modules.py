"""Modules that are more than chains of layers: what their owner wishes, and what they keep."""

import threading
import warnings
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, weight_norm

import pyro_bayesprune as bp
from attacks.situations import classes, fitted, situation
from pyro_bayesprune.inference.samplers import posterior_draws


class Body(nn.Module):
    """A module between two layers."""

    def __init__(self, middle: nn.Module, width: int = 8) -> None:
        super().__init__()
        self.a, self.middle, self.b = nn.Linear(5, width), middle, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.middle(self.a(x))))


def frozen(net: nn.Module, *names: str) -> nn.Module:
    for name in names:
        net.get_parameter(name).requires_grad_(False)
    return net


@situation(
    "frozen parameters",
    "they keep their values, are not pruned and stand outside the posterior",
    {
        "a layer": lambda: frozen(Body(nn.Linear(8, 8)), "a.weight", "a.bias"),
        "a bias alone": lambda: frozen(Body(nn.Linear(8, 8)), "middle.bias"),
        "the gain of a LayerNorm": lambda: frozen(Body(nn.LayerNorm(8)), "middle.weight"),
        "a convolution": lambda: frozen(
            nn.Sequential(
                nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 2, 3), nn.Flatten(), nn.Linear(6, 3)
            ),
            "1.weight",
        ),
        "the direction of a weight_norm": lambda: frozen(
            Body(parametrizations.weight_norm(nn.Linear(8, 8))),
            "middle.parametrizations.weight.original1",
        ),
    },
)
def frozen_parameters(make: Callable[[], nn.Module]) -> None:
    net, data = make(), classes()
    before = {n: p.detach().clone() for n, p in net.named_parameters() if not p.requires_grad}
    fit = fitted(net, data)
    draws = posterior_draws(fit, data, "laplace", draws=4)
    for name, value in before.items():
        assert torch.equal(fit.weights[name], value) and name not in fit.masks
        assert torch.equal(fit.module.get_parameter(name), value)
        assert name not in draws.index, name


@situation(
    "a prior that is a Delta",
    "the parameter has the Delta's value and is not pruned",
    {
        "a weight": "a.weight",
        "a bias": "b.bias",
        "a gain": "middle.weight",
        "a shift": "middle.bias",
    },
)
def delta(name: str) -> None:
    def prior(site: str, shape: torch.Size) -> dist.TorchDistribution:
        if site == name:
            return dist.Delta(torch.full(shape, 0.5)).to_event(len(shape))
        return bp.priors.normal(1.0)(site, shape)

    net, data = Body(nn.LayerNorm(8)), classes()
    model = bp.BayesianModule(net, prior, 64)
    fit = bp.fit(model, data, epochs=2, pruning=bp.Pruning(sparsity=0.5), progress=False)
    assert (fit.weights[name] == 0.5).all() and name not in fit.masks
    assert (fit.module.get_parameter(name) == 0.5).all()


@situation(
    "a submodule in evaluation mode",
    "it stays in it: statistics do not move, nothing is dropped",
    {
        "BatchNorm1d": lambda: nn.BatchNorm1d(8),
        "BatchNorm with frozen gain": lambda: frozen(nn.BatchNorm1d(8), "weight", "bias"),
        "InstanceNorm with statistics": lambda: nn.Sequential(
            nn.Unflatten(1, (2, 4)), nn.InstanceNorm1d(2, track_running_stats=True), nn.Flatten()
        ),
        "BatchNorm inside a block": lambda: nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)),
    },
)
def evaluation(make: Callable[[], nn.Module]) -> None:
    net = Body(make())
    net.middle.eval()
    before = {n: b.clone() for n, b in net.named_buffers()}
    fit = fitted(net, classes())
    assert all(torch.equal(fit.buffers[f"net.{n}"], b) for n, b in before.items())
    assert not fit.model.net.middle.training


class Keeping(Body):
    """A module that keeps something as an attribute."""

    def __init__(self, keep: Callable[[nn.Module, Tensor], None]) -> None:
        super().__init__(nn.Identity())
        self.keep = keep

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        self.keep(self, h)
        return self.b(torch.tanh(h))


def kept(where: str) -> Callable[[nn.Module, Tensor], None]:
    """What a module does with an activation."""

    def keep(module: nn.Module, h: Tensor) -> None:
        value = {"list": [h], "dictionary": {"h": h}, "tuple": (h, h), "tensor": h}.get(where)
        module.last = threading.Lock() if value is None else value

    return keep


@situation(
    "a module that keeps what it computed, or a lock",
    "it is fitted, predicts as its own plain module, and can be fitted again",
    {
        "an activation": lambda: Keeping(kept("tensor")),
        "a list of activations": lambda: Keeping(kept("list")),
        "a dictionary": lambda: Keeping(kept("dictionary")),
        "a tuple": lambda: Keeping(kept("tuple")),
        "a lock": lambda: Keeping(kept("lock")),
        "old weight_norm": lambda: Body(weight_norm(nn.Linear(8, 8))),
        "an attribute named model": lambda: Named("model"),
        "attributes named call and median": lambda: Named("median"),
    },
)
def keeping(make: Callable[[], nn.Module]) -> None:
    warnings.simplefilter("ignore", FutureWarning)  # the old weight_norm is deprecated
    data, net = classes(), make()
    net(data[0][:2])  # it has run before
    fit = fitted(net, data)
    again = fitted(net, data)
    assert all(torch.equal(fit.weights[n], again.weights[n]) for n in fit.weights)
    expected = fit.module(data[0]).softmax(-1)
    torch.testing.assert_close(fit.predict_proba(data[0]), expected)


class Named(nn.Module):
    """A wrapper whose submodule has a name that guides of Pyro use themselves."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.inner = name
        setattr(self, name, nn.Linear(5, 3))

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, self.inner)(x)


class Stateful(nn.Module):
    """A module whose state changes in training mode, each member in its own way."""

    def __init__(self, update: Callable[["Stateful", Tensor], None]) -> None:
        super().__init__()
        self.update, self.linear = update, nn.Linear(5, 3)
        self.register_buffer("grows", torch.zeros(0))
        self.register_buffer("none", None)
        self.mean = torch.zeros(5)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.update(self, x)
        shift = self.mean
        if self.none is not None:
            shift = shift + self.none
        if len(self.grows):
            shift = shift + self.grows
        if hasattr(self, "late"):
            shift = shift + self.late
        return self.linear(x - shift)


def _attribute(module: Stateful, x: Tensor) -> None:
    module.mean = 0.9 * module.mean + 0.1 * x.mean(0)


def _in_place(module: Stateful, x: Tensor) -> None:
    module.mean.mul_(0.9).add_(0.1 * x.mean(0))


def _grows(module: Stateful, x: Tensor) -> None:
    module.grows = x.mean(0)


def _none(module: Stateful, x: Tensor) -> None:
    module.none = x.mean(0)


def _late(module: Stateful, x: Tensor) -> None:
    if not hasattr(module, "late"):
        module.register_buffer("late", torch.zeros(5))
    module.late += 0.1 * x.mean(0)


@situation(
    "state that changes in training mode",
    "prediction uses what training left, a continued fit starts from it",
    {
        "a buffer that changes shape": _grows,
        "a buffer that is None at first": _none,
        "a buffer that forward creates": _late,
        "an attribute that is replaced": _attribute,
        "an attribute that is changed in place": _in_place,
    },
)
def state(update: Callable[[Stateful, Tensor], None]) -> None:
    data = classes()
    whole = fitted(Stateful(update), data, epochs=4, optim=pyro.optim.Adam({"lr": 0.01}))
    torch.testing.assert_close(whole.predict_proba(data[0]), whole.module(data[0]).softmax(-1))
    torch.manual_seed(0)
    classes()
    half = fitted(net := Stateful(update), data, epochs=2, optim=pyro.optim.Adam({"lr": 0.01}))
    model = bp.BayesianModule(net, bp.priors.normal(1.0), 64)
    rest = bp.fit(
        model,
        data,
        epochs=4,
        state=half.state,
        progress=False,
        pruning=bp.Pruning(sparsity=0.5, gate="always"),
        optim=pyro.optim.Adam({"lr": 0.01}),
    )
    assert all(torch.equal(b, rest.buffers[n]) for n, b in whole.buffers.items()), "buffers"
