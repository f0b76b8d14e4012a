"""Training the survivors only is training under fixed masks."""

import pyro
import pytest
import torch
from torch import nn
from torch.nn.functional import linear

import pyro_bayesprune as bp
from pyro_bayesprune.inference.log_joint import log_densities
from pyro_bayesprune.models import sparse
from pyro_bayesprune.models.sparse import Surviving
from pyro_bayesprune.training.trainer import Trainer

PRIORS = {
    "normal": bp.priors.normal(0.3),
    "laplace": bp.priors.laplace(0.3),
    "student_t": bp.priors.student_t(3.0, 0.3),
}
OPTIMISERS = {
    "adam": lambda: pyro.optim.Adam({"lr": 0.01, "fused": True}),
    "amsgrad": lambda: pyro.optim.Adam({"lr": 0.01, "amsgrad": True}),
    "clipped": lambda: pyro.optim.SGD({"lr": 0.1, "momentum": 0.9}, {"clip_norm": 1.0}),
}


def trained(monkeypatch, prior, optim, share):
    monkeypatch.setattr(sparse, "WORTHWHILE", share)
    monkeypatch.setattr(sparse, "LARGE", 1)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 30), nn.Tanh(), nn.Linear(30, 30), nn.Tanh(), nn.Linear(30, 3))
    x, y = torch.randn(40, 8).double(), torch.randint(3, (40,))
    trainer = Trainer(
        bp.BayesianModule(net.double(), prior, 40),
        (x, y),
        initial_weights={},
        optim=optim,
        objective="map",
        temperature=1.0,
        seed=0,
    )
    masks = {f"{i}.weight": torch.rand(net[i].weight.shape) > 0.8 for i in (0, 2)}
    trainer.project(masks, persist=True)
    losses = [trainer.run_epoch(epoch, 8) for epoch in (1, 2, 3)]
    return losses, trainer.weights(), trainer.optim.get_state()["optimizer"]["state"], masks


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("optim", OPTIMISERS)
def test_survivors_train_as_under_dense_kernels(monkeypatch, prior, optim):
    dense = trained(monkeypatch, PRIORS[prior], OPTIMISERS[optim](), 0.0)
    few = trained(monkeypatch, PRIORS[prior], OPTIMISERS[optim](), 0.5)
    if optim != "clipped":  # a norm over survivors is that over masked gradients, but for rounding
        torch.testing.assert_close(few[0], dense[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(few[1], dense[1], rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(few[2], dense[2], rtol=1e-8, atol=1e-9)
    assert all((few[1][name][~mask] == 0).all() for name, mask in few[3].items())


def test_any_other_operation_sees_the_dense_matrix():
    mask = torch.rand(5, 4) > 0.5
    vector = torch.randn(int(mask.sum()), dtype=torch.float64, requires_grad=True)
    matrix = torch.zeros(5, 4, dtype=torch.float64)
    sparse_matrix = Surviving.of(matrix, vector, mask)
    dense = matrix.masked_scatter(mask, vector)
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    for f in (lambda w: linear(x, w), lambda w: w.square().sum(), lambda w: linear(x[0], w)):
        (expected,) = torch.autograd.grad(f(dense).sin().sum(), vector, retain_graph=True)
        (result,) = torch.autograd.grad(f(sparse_matrix).sin().sum(), vector)
        torch.testing.assert_close(f(sparse_matrix), f(dense))
        torch.testing.assert_close(result, expected)


def test_densities_do_not_depend_on_how_a_matrix_is_stored(monkeypatch):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 30), nn.Tanh(), nn.Linear(30, 3)).double()
    x, y = torch.randn(40, 8).double(), torch.randint(3, (40,))
    model = bp.BayesianModule(net, bp.priors.laplace(0.3), 40)
    weights = {n: p.detach() for n, p in net.named_parameters()}
    masks = {"0.weight": torch.rand(30, 8) > 0.9}
    weights["0.weight"] = weights["0.weight"] * masks["0.weight"]
    dense = bp.log_joint(model, weights, (x, y)), log_densities(model, weights, (x, y))
    monkeypatch.setattr(sparse, "LARGE", 1)
    few = bp.log_joint(model, weights, (x, y)), log_densities(model, weights, (x, y))
    assert few[0].total == pytest.approx(dense[0].total, rel=1e-12)
    torch.testing.assert_close(few[1], dense[1])
    dropped = bp.log_joint(model, weights, (x, y), masks, "dropped")
    monkeypatch.setattr(sparse, "LARGE", 10**9)
    assert dropped.total == pytest.approx(
        bp.log_joint(model, weights, (x, y), masks, "dropped").total, rel=1e-12
    )
