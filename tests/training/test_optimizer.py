"""Optimisers under masks, and their schedules, options and clipping."""

import pytest
import torch
from helpers import assert_same, class_data, net_weights, random_masks
from helpers.trainings import OPTIMISERS, fresh, short_fit
from pyro.optim import SGD, PyroOptim, ReduceLROnPlateau
from torch import nn

import pyro_bayesprune as bp
from pyro_bayesprune.training.optimizer import JointOptim
from pyro_bayesprune.training.trainer import Trainer

FIXING = OPTIMISERS.keys() - {"clipped", "momentum"}


@pytest.mark.parametrize("name", list(OPTIMISERS))
@pytest.mark.parametrize("prior", [bp.priors.normal(0.5), bp.priors.layer_scale()])
def test_fixed_entries_train_as_under_masked_gradients(monkeypatch, name, prior):
    def trained():
        data = class_data()
        model = fresh(data=data, prior=prior)
        options = {"optim": OPTIMISERS[name](), "objective": "map", "temperature": 1.0, "seed": 0}
        trainer = Trainer(model, data, initial_weights={}, **options)
        trainer.run_epoch(1, 10)
        trainer.project(random_masks(net_weights(model.net)), persist=True)
        return trainer, [trainer.run_epoch(epoch, 10) for epoch in (2, 3)]

    fixed, losses = trained()
    assert fixed.optim.can_fix("0.weight") == (name in FIXING)
    monkeypatch.setattr(JointOptim, "can_fix", lambda self, site: False)
    masked, expected = trained()
    assert losses == expected
    assert_same(fixed.weights(), masked.weights())
    state, other = (t.optim.get_state()["optimizer"]["state"] for t in (fixed, masked))
    for index in state:
        assert_same(*({k: torch.as_tensor(v) for k, v in s[index].items()} for s in (state, other)))


def test_a_learning_rate_schedule_takes_its_step_after_each_epoch():
    optim = OPTIMISERS["exponential"]()
    rates = [
        state.optimizer["optimizer"]["param_groups"][0]["lr"]
        for state, _ in bp.train(fresh(), class_data(), optim=optim, epochs=3)
    ]
    assert rates == pytest.approx([0.005, 0.0025, 0.00125])


def test_a_plateau_schedule_sees_the_training_loss():
    """A learning rate of zero makes no progress: the schedule must lower it (to zero: to 1e-9)."""
    args = {"optim_args": {"lr": 1e-9}, "patience": 0, "factor": 0.5, "eps": 0.0}
    optim = ReduceLROnPlateau({"optimizer": torch.optim.SGD, **args})
    *_, (state, _) = bp.train(fresh(), class_data(), optim=optim, epochs=6)
    assert state.optimizer["optimizer"]["param_groups"][0]["lr"] < 1e-9


def test_gradients_are_clipped_with_the_priors_part():
    """One step of SGD whose gradient is clipped to a norm moves a site by rate times norm."""
    data = class_data()
    model = fresh(prior=bp.priors.normal(1e-3))  # the prior's gradient is by far the larger
    optim = SGD({"lr": 1.0}, {"clip_norm": 0.01})
    result = short_fit(model, data, optim=optim, pruning=None, epochs=1, batch_size=data.num_train)
    for name, weight in net_weights(model.net).items():
        assert (result.weights[name] - weight).norm() == pytest.approx(0.01, rel=1e-3)


def test_options_may_differ_by_site():
    model = fresh()
    optim = SGD(lambda name: {"lr": 0.1 if name.startswith("2.") else 0.0})
    result = short_fit(model, class_data(), optim=optim, pruning=None, epochs=1)
    assert torch.equal(result.weights["0.weight"], model.net[0].weight)
    assert not torch.equal(result.weights["2.weight"], model.net[2].weight)


class Orthogonal(torch.optim.SGD):
    """An optimiser of the user's: its step is the orthogonal matrix nearest to the gradient."""

    @torch.no_grad()
    def step(self, closure=None):
        for param in self.param_groups[0]["params"]:
            u, _, v = torch.linalg.svd(param.grad, full_matrices=False)
            param.sub_(0.01 * u @ v)


@pytest.mark.parametrize("kind", [Orthogonal, getattr(torch.optim, "Muon", Orthogonal)])
def test_pruned_weights_stay_zero_under_an_optimiser_of_whole_matrices(kind):
    net = nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False))
    data = class_data()
    model = bp.BayesianModule(net, bp.priors.normal(0.5), data.num_train)
    trainer = Trainer(
        model,
        data,
        initial_weights={},
        optim=PyroOptim(kind, {"lr": 0.01}),
        objective="map",
        temperature=1.0,
        seed=0,
    )
    masks = random_masks(net_weights(net))
    trainer.project(masks, persist=True)
    trainer.run_epoch(1, 10)
    assert not any(trainer.weights()[name][~mask].any() for name, mask in masks.items())


@pytest.mark.parametrize("kind", sorted({"Muon", "Adafactor"} & {*dir(torch.optim)}))
def test_large_sparse_matrices_are_trained_whole_where_the_optimiser_needs_it(kind):
    net, data = nn.Linear(6, 11_000, bias=False), class_data()
    model = bp.BayesianModule(net, bp.priors.normal(0.5), data.num_train)
    pruning = bp.Pruning(sparsity=0.9, gate="always", schedule="constant")
    optim = PyroOptim(getattr(torch.optim, kind), {"lr": 0.01})
    fit = short_fit(model, data, optim=optim, pruning=pruning, epochs=2)
    assert (fit.weights["weight"] == 0).float().mean() == pytest.approx(0.9, abs=1e-3)
