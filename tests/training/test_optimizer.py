"""Optimisers under masks, and their schedules, options and clipping."""

import pytest
import torch
from helpers import assert_same, class_data, net_weights, random_masks
from helpers.trainings import OPTIMISERS, fresh, short_fit
from pyro.optim import SGD, ReduceLROnPlateau

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
