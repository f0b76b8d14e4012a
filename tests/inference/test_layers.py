"""Curvature of modules that are no plain chains of Linear layers, against autograd."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

import pyro_bayesprune as bp
from pyro_bayesprune.inference.curvature import ggn_diagonal, ggn_full
from pyro_bayesprune.inference.layers import closed_form_layers, has_closed_form
from pyro_bayesprune.inference.mode import log_joint_gradient


class Base(nn.Module):
    """Two layers whose forward pass the members change."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)


class InPlaceProduct(Base):
    def forward(self, x):
        h = self.a(x)
        h *= 2
        return self.b(h.tanh())


class InPlaceActivation(Base):
    def forward(self, x):
        return self.b(self.a(x).relu_())


class TiedDecoder(Base):
    def forward(self, x):
        return self.b(F.linear(self.a(x).tanh(), self.a.weight.T))


class CalledTwice(Base):
    def forward(self, x):
        return self.b(self.a(self.a(x).tanh()))


class CalledByKeyword(Base):
    def forward(self, x):
        return self.b(input=self.a(input=x).tanh())


class FoldedBatch(Base):
    def forward(self, x):
        rows = torch.stack([x, x.flip(1)], 1).flatten(0, 1)
        return self.b(self.a(rows).tanh()).unflatten(0, (-1, 2)).mean(1)


class SequenceFirst(Base):
    def forward(self, x):
        steps = torch.stack([x, x.flip(1), -x])  # (t, n, features)
        return self.b(self.a(steps).tanh()).mean(0)


class Scaled(nn.Linear):
    def forward(self, x):
        return 3 * super().forward(x)


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.r, self.o = kind(2, 3, batch_first=True), nn.Linear(3, 3)

    def forward(self, x):
        return self.o(self.r(x.unflatten(1, (2, 2)))[0][:, -1])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attend, self.o = nn.MultiheadAttention(2, 1, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        h = x.unflatten(1, (2, 2))
        return self.o(self.attend(h, h, h, need_weights=False)[0].flatten(1))


def chain(first):
    return nn.Sequential(first, nn.ReLU(inplace=True), nn.Linear(4, 3))


def old_hook(put):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch deprecates the old weight_norm
        return put(nn.Linear(4, 4))


MEMBERS = {
    "in-place activation module": lambda: chain(nn.Linear(4, 4)),
    "in-place activation": InPlaceActivation,
    "in-place product": InPlaceProduct,
    "weight used again": TiedDecoder,
    "layer called twice": CalledTwice,
    "layer called by keyword": CalledByKeyword,
    "batch folded into rows": FoldedBatch,
    "sequence first": SequenceFirst,
    "subclass of Linear": lambda: chain(Scaled(4, 4)),
    "old weight_norm": lambda: chain(old_hook(nn.utils.weight_norm)),
    "old spectral_norm": lambda: chain(old_hook(nn.utils.spectral_norm)),
    "weight_norm": lambda: chain(parametrizations.weight_norm(nn.Linear(4, 4))),
    "orthogonal": lambda: chain(parametrizations.orthogonal(nn.Linear(4, 4))),
    "prune": lambda: chain(prune.l1_unstructured(nn.Linear(4, 4), "weight", amount=0.5)),
    "LayerNorm": lambda: chain(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))),
    "BatchNorm": lambda: chain(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))),
    "Conv1d": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 2, 3, stride=2, padding=1), nn.Tanh(), nn.Flatten(),
        nn.Linear(4, 3),
    ),
    "grouped Conv2d": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 2, groups=2, padding=1),
        nn.Tanh(), nn.Flatten(), nn.Linear(18, 3),
    ),
    "GRU": lambda: Recurrent(nn.GRU),
    "RNN": lambda: Recurrent(nn.RNN),
    "LSTM": lambda: Recurrent(nn.LSTM),
    "attention": Attention,
}  # fmt: skip
CLOSED = {"in-place activation module", "in-place activation", "in-place product",
          "layer called by keyword", "Conv1d"}  # fmt: skip


def lifted(name, likelihood):
    torch.manual_seed(0)
    net = MEMBERS[name]().double()
    x, y = torch.randn(7, 4, dtype=torch.float64), torch.randint(0, 3, (7,))
    if likelihood is not bp.categorical:
        y = torch.randn(7, 3, dtype=torch.float64)
    model = bp.BayesianModule(net, bp.priors.normal(1.0), 7, likelihood)
    return model, {n: p.detach().clone() for n, p in net.named_parameters()}, (x, y)


def by_autograd(model, weights, x):
    """The GGN of all parameters, one example and one output at a time."""
    model.eval()
    total = 0.0
    for one in x.split(1):
        point = {n: w.clone().requires_grad_() for n, w in weights.items()}
        outputs = model.outputs(point, one)[0]
        rows = [
            torch.autograd.grad(o, list(point.values()), retain_graph=True, allow_unused=True,
                                materialize_grads=True)
            for o in outputs
        ]  # fmt: skip
        jacobian = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows]).detach()
        if model.likelihood is bp.categorical:
            p = outputs.detach().softmax(0)
            hessian = p.diag() - torch.outer(p, p)
        else:
            hessian = torch.eye(3, dtype=torch.float64) / model.likelihood.scale**2
        total = total + jacobian.T @ hessian @ jacobian
    return total


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("likelihood", [bp.categorical, bp.gaussian(0.5)], ids=["classes", "real"])
def test_the_diagonal_and_the_whole_matrix_are_those_of_autograd(name, likelihood):
    model, weights, data = lifted(name, likelihood)
    exact = by_autograd(model, weights, data[0])
    diagonal = torch.cat([v.flatten() for v in ggn_diagonal(model, weights, data).values()])
    torch.testing.assert_close(diagonal, exact.diagonal(), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(ggn_full(model, weights, data), exact, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", MEMBERS)
def test_the_gradient_is_that_of_the_log_joint(name):
    model, weights, data = lifted(name, bp.categorical)
    result = log_joint_gradient(model, weights, data, temperature=2.0)
    name, step = next(iter(weights)), 1e-5
    direction = torch.randn_like(weights[name])
    ends = [
        bp.log_joint(model, weights | {name: weights[name] + sign * step * direction}, data,
                     temperature=2.0).total
        for sign in (1, -1)
    ]  # fmt: skip
    slope = (ends[0] - ends[1]) / (2 * step)
    assert (result[name] * direction).sum().item() == pytest.approx(slope, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", MEMBERS)
def test_the_closed_form_is_used_where_it_holds_only(name):
    model, weights, data = lifted(name, bp.categorical)
    assert has_closed_form(model, weights, data[0]) == (name in CLOSED)


def test_layers_beside_others_keep_their_closed_form():
    model, weights, data = lifted("BatchNorm", bp.categorical)
    assert closed_form_layers(model, weights, data[0]) == {"0.0", "2"}


def test_zeros_of_pruned_weights_hide_no_difference():
    model, weights, data = lifted("weight used again", bp.categorical)
    zeros = weights | {"a.weight": torch.zeros(4, 4, dtype=torch.float64)}
    assert "a" not in closed_form_layers(model, zeros, data[0])


def test_thousands_of_classes_need_one_column_in_memory_at_a_time():
    torch.manual_seed(0)
    net, x = nn.Linear(5, 3000), torch.randn(600, 5)
    model = bp.BayesianModule(net, bp.priors.normal(1.0), 600)
    weights = {n: p.detach() for n, p in net.named_parameters()}
    p = net(x).detach().softmax(-1).double()
    exact = (p * (1 - p)).T @ x.double().square()
    ggn = ggn_diagonal(model, weights, (x, torch.zeros(600, dtype=torch.long)))
    torch.testing.assert_close(ggn["weight"], exact, rtol=1e-3, atol=1e-9)


def test_a_parameter_may_be_frozen_after_the_first_evaluation():
    data = torch.randn(8, 4), torch.arange(8) % 3
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    model = bp.BayesianModule(net, bp.priors.normal(1.0), 8)
    whole = ggn_diagonal(model, model.named_weights(), data)
    net[0].bias.requires_grad_(False)
    rest = ggn_diagonal(model, model.named_weights(), data)
    assert set(rest) == set(whole) - {"0.bias"}
    for name, values in rest.items():
        torch.testing.assert_close(values, whole[name], rtol=1e-5, atol=1e-7)
