"""What is pruned of other modules; the user's process, data, files and mistakes."""

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import pyro_bayesprune as bp
from attacks.situations import classes, fitted, situation
from attacks.situations_modules import Body
from pyro_bayesprune.inference.curvature import ggn_diagonal
from pyro_bayesprune.inference.samplers import posterior_draws


class Words(nn.Module):
    """Tokens with positions and a class token, through attention."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.place = nn.Embedding(7, 4), nn.Parameter(torch.randn(1, 6, 4))
        self.token = nn.Parameter(torch.randn(1, 1, 4))
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm, self.out = nn.LayerNorm((6, 4)), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.cat([self.token.expand(len(x), 1, 4), self.words(x)], 1) + self.place
        return self.out(self.norm(self.attend(h, h, h)[0])[:, 0])


class Products(nn.Module):
    """Parameters of one's own in matrix products and sums."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.v = nn.Parameter(torch.randn(5, 4)), nn.Parameter(torch.randn(4, 3))
        self.shift = nn.Parameter(torch.zeros(1, 4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nh,hk->nk", torch.tanh(x @ self.w + self.shift), self.v)


class Sequence(nn.Module):
    """A recurrent layer and a head."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.run, self.head = kind(1, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.run(x.unsqueeze(2))[0][:, -1])


WEIGHTS = {
    "embedding, attention, positions, class token, LayerNorm of matrices": (
        Words,
        (torch.randint(0, 7, (30, 5)), torch.arange(30) % 3),
        {"words.weight", "attend.in_proj_weight", "attend.out_proj.weight", "out.weight"},
    ),
    "matrix products": (Products, classes(30), {"w", "v"}),
    "GRU": (
        partial(Sequence, nn.GRU),
        classes(30),
        {"run.weight_ih_l0", "run.weight_hh_l0", "head.weight"},
    ),
    "weight_norm": (
        lambda: Body(parametrizations.weight_norm(nn.Linear(8, 8))),
        classes(30),
        {"a.weight", "middle.parametrizations.weight.original1", "b.weight"},
    ),
    "ConvTranspose1d": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, 5)), nn.ConvTranspose1d(1, 2, 2), nn.Flatten(), nn.Linear(12, 3)
        ),
        classes(30),
        {"1.weight", "3.weight"},
    ),
}


@situation("what is pruned by default", "weights of linear operations and no others", WEIGHTS)
def prunable(member: tuple[Callable[[], nn.Module], tuple, set[str]]) -> None:
    make, data, expected = member
    assert set(fitted(make(), data).masks) == expected


class Heads(nn.Module):
    """Layers in an order of registration that is not that of the data."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.second_head = nn.Linear(8, 3) if kind == "two heads" else None
        self.head = nn.Linear(8, 3)
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        first = torch.relu(self.a(x))
        h = torch.relu(self.b(first))
        if self.kind == "a residual connection":
            h = h + first
        if self.second_head is not None:
            return self.head(h) + self.second_head(first)
        outputs = self.head(h)
        return outputs.log_softmax(-1) if self.kind == "an operation after the head" else outputs


@situation(
    "units where the output layer is registered first",
    "the output layer keeps its units",
    {
        k: k
        for k in ("one head", "two heads", "a residual connection", "an operation after the head")
    },
)
def output_layer(kind: str) -> None:
    fit = fitted(Heads(kind), classes(), pruning=bp.Pruning(scope="unit", gate="always"))
    assert set(fit.masks) == {"a.weight", "b.weight"}, list(fit.masks)


@situation(
    "nothing to prune",
    "a RuntimeWarning says so, and the fit's summary",
    {
        "units of an LSTM": (partial(Sequence, nn.LSTM), "unit"),
        "units of a GRU": (partial(Sequence, nn.GRU), "unit"),
        "units of a ConvTranspose": (
            lambda: nn.Sequential(
                nn.Unflatten(1, (1, 5)), nn.ConvTranspose1d(1, 2, 2), nn.Flatten(), nn.Linear(12, 3)
            ),
            "unit",
        ),
        "gains alone": (lambda: nn.Sequential(nn.LayerNorm(5), nn.AdaptiveAvgPool1d(3)), "layer"),
    },
)
def nothing(member: tuple[Callable[[], nn.Module], str]) -> None:
    make, scope = member
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit = fitted(make(), classes(), pruning=bp.Pruning(scope=scope))
    assert any("nothing is pruned" in str(w.message) for w in caught)
    assert "nothing prunable" in repr(fit) and not fit.masks


@situation(
    "patterns that exclude",
    "the rest of the default is pruned",
    {
        "a layer": (("!a.*",), {"b.weight", "middle.weight"}),
        "two layers": (("!a.*", "!b.*"), {"middle.weight"}),
        "of those included": (("*.weight", "!b*"), {"a.weight", "middle.weight"}),
        "everything but one": (("*.weight", "!a.*", "!b.*"), {"middle.weight"}),
    },
)
def patterns(member: tuple[tuple[str, ...], set[str]]) -> None:
    sites, expected = member
    pruning = bp.Pruning(sparsity=0.5, sites=sites)
    assert set(fitted(Body(nn.Linear(8, 8)), classes(), pruning=pruning).masks) == expected


def model_of(data: tuple) -> bp.BayesianModule:
    return bp.BayesianModule(Body(nn.Dropout(0.2)), bp.priors.normal(1.0), len(data[0]))


def _weights(fit: bp.Fit) -> float:
    return sum(w.double().sum().item() for w in fit.weights.values())


WORK: dict[str, Callable[[Any, tuple, bp.Fit], object]] = {
    "fits": lambda model, data, fit: _weights(bp.fit(model, data, epochs=2, progress=False)),
    "log joint densities": lambda model, data, fit: bp.log_joint(model, fit.weights, data).total,
    "predictions": lambda model, data, fit: fit.predict_proba(data[0]).sum().item(),
    "draws": lambda model, data, fit: (
        posterior_draws(fit, data, "laplace", draws=3).values.sum().item()
    ),
    "curvature": lambda model, data, fit: (
        ggn_diagonal(model, fit.weights, data)["a.weight"].sum().item()
    ),
}


@situation("several threads of one process", "the numbers of one thread after the other", WORK)
def threads(work: Callable) -> None:
    data = classes()
    model, fit = model_of(data), bp.fit(model_of(data), data, epochs=1, progress=False)
    expected = work(model, data, fit)
    with ThreadPoolExecutor(3) as pool:
        assert set(pool.map(lambda _: work(model, data, fit), range(6))) == {expected}


@situation("the process's random state", "as it was", WORK)
def random_state(work: Callable) -> None:
    import random

    import numpy as np

    data = classes()
    model, fit = model_of(data), bp.fit(model_of(data), data, epochs=1, progress=False)
    torch.manual_seed(7), random.seed(7), np.random.seed(7)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    work(model, data, fit)
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == random.getstate()
    assert (before[2] == np.random.get_state()[1]).all()


@situation("pyro.settings module_local_params=True", "the same numbers as without", WORK)
def local_parameters(work: Callable) -> None:
    data = classes()
    model, fit = model_of(data), bp.fit(model_of(data), data, epochs=1, progress=False)
    expected = work(model, data, fit)
    with pyro.settings.context(module_local_params=True):
        assert work(model, data, fit) == expected


@situation("a caller under no_grad", "the same numbers as without", WORK)
def no_gradients(work: Callable) -> None:
    data = classes()
    model, fit = model_of(data), bp.fit(model_of(data), data, epochs=1, progress=False)
    expected = work(model, data, fit)
    with torch.no_grad():
        assert work(model, data, fit) == expected


@situation("torch.set_default_device elsewhere", "tensors stay where the data are", WORK)
def default_device(work: Callable) -> None:
    data = classes()
    model, fit = model_of(data), bp.fit(model_of(data), data, epochs=1, progress=False)
    expected = work(model, data, fit)
    with torch.device("meta"):
        assert work(model, data, fit) == expected


@situation("torch.set_default_dtype(float64)", "tensors keep the network's dtype", WORK)
def default_dtype(work: Callable) -> None:
    data = classes()
    model, fit = model_of(data), bp.fit(model_of(data), data, epochs=1, progress=False)
    expected = work(model, data, fit)
    torch.set_default_dtype(torch.float64)
    try:
        assert work(model, data, fit) == expected
    finally:
        torch.set_default_dtype(torch.float32)


@situation("data that are attached to a graph", "detached; the graph is left alone", WORK)
def attached(work: Callable) -> None:
    x, y = classes()
    encoder = nn.Linear(5, 5)
    data = encoder(x), y
    model = model_of(data)
    fit = bp.fit(model, data, epochs=1, progress=False)
    assert work(model, data, fit) == work(model, (data[0].detach(), y), fit)
    assert encoder.weight.grad is None
    data[0].sum().backward()  # the graph is whole
