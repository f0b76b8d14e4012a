"""The trainer: zeros that stay, its loss, divergence, and site names."""

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import (
    assert_same,
    class_data,
    fit_once,
    lifted,
    linear_data,
    mlp,
    net_weights,
    noisy_net,
    random_masks,
    regression,
    written,
)
from helpers.trainings import OPTIMISERS, fresh, short_fit
from pyro.optim import SGD, Adam
from torch import nn

import pyro_bayesprune as bp
from pyro_bayesprune.training.trainer import Trainer, TrainingDiverged

X, Y, _ = linear_data(dtype=torch.float32)


@pytest.mark.parametrize("name", list(OPTIMISERS))
@pytest.mark.parametrize("objective", ["map", "mle"])
def test_pruned_weights_are_zero_after_every_step_and_moments_after_every_epoch(name, objective):
    data, model = class_data(), fresh(noisy_net)
    options = {"optim": OPTIMISERS[name](), "objective": objective, "temperature": 1.0, "seed": 0}
    trainer = Trainer(model.train(), data, initial_weights={}, **options)
    trainer.run_epoch(1, 10)
    masks = random_masks(trainer.weights())
    trainer.project(masks, persist=True)
    counts, step = [], trainer.svi.step

    def check(site, tensors):
        whole = [t for t in tensors if isinstance(t, torch.Tensor) and t.shape == masks[site].shape]
        assert all((t[~masks[site]] == 0).all() for t in whole), site
        assert all((t[masks[site]] != 0).any() for t in whole), site
        counts.append(len(whole))

    def observed(*batch):
        loss = step(*batch)
        for site in masks:
            check(site, [trainer.params[site].detach()])
        return loss

    trainer.svi.step = observed
    trainer.run_epoch(2, 10)
    assert counts == [1] * 5 * len(masks)
    for site in masks:
        state = trainer.optim.torch_optim.state[trainer.params[site]]
        check(site, [trainer.params[site].detach(), *state.values()])
    assert set(counts[-len(masks) :]) == {{"momentum": 2, "amsgrad": 4}.get(name, 3)}


def test_guide_set_up_does_not_advance_buffers():
    result = short_fit(fresh(noisy_net), class_data(), epochs=1)
    assert result.buffers["net.1.num_batches_tracked"] == 5  # 48 examples, 10 a step


@pytest.mark.parametrize("objective", ["map", "mle"])
def test_training_is_plain_pytorch_with_weight_decay(objective):
    """An oracle written in PyTorch alone: cross-entropy, Adam, weight decay 1/(N σ²)."""
    data, model = class_data(dtype=torch.float64), None
    torch.manual_seed(0)
    net = mlp().double()
    model = lifted(copy.deepcopy(net), data, bp.priors.normal(0.3))
    decay = 1 / (data.num_train * 0.3**2) if objective == "map" else 0.0
    optim = torch.optim.Adam(net.parameters(), lr=0.01, weight_decay=decay)
    for _ in range(3):
        optim.zero_grad()
        nn.functional.cross_entropy(net(data.train_x), data.train_y).backward()
        optim.step()
    result = short_fit(
        model,
        data,
        optim=Adam({"lr": 0.01}),
        objective=objective,
        pruning=None,
        epochs=3,
        batch_size=data.num_train,
    )
    for name, weight in net_weights(net).items():
        assert torch.allclose(result.weights[name], weight, rtol=0, atol=1e-12)


def test_minibatches_are_scaled_to_the_data_set():
    """The loss of an epoch at fixed weights is the mean over the data, whatever the batch size."""
    still = {"optim": SGD({"lr": 1e-30}), "pruning": None, "epochs": 1}
    data, model = class_data(dtype=torch.float64), lifted(mlp().double(), class_data())
    losses = [
        short_fit(model, data, batch_size=b, **still).history["train_loss"][0] for b in (7, 48)
    ]
    expected = nn.functional.cross_entropy(model.net(data.train_x), data.train_y).item()
    assert losses == pytest.approx([expected, expected], abs=1e-9)


def test_pruned_zeros_do_not_shrink_a_layers_scale():
    """The scale's MAP given fixed surviving weights is the same however many zeros there are."""
    data = class_data()

    def scale_after(masks):
        model = fresh(prior=bp.priors.layer_scale(0.3, 4.0))
        trainer = Trainer(
            model,
            data,
            initial_weights={},
            seed=0,
            optim=SGD(lambda n: {"lr": 0.05 if "scale" in n else 0.0}),
            objective="map",
            temperature=1.0,
        )
        trainer.project(masks, persist=True)
        for epoch in range(1, 40):
            trainer.run_epoch(epoch, 48)
        return trainer.weights()["0.weight_scale"].item(), trainer.weights()["0.weight"]

    masks = {"0.weight": torch.rand(8, 6) > 0.9}
    scale, weight = scale_after(masks)
    surviving = weight[masks["0.weight"]]
    n, t = 48, torch.linspace(-3, 1, 40001, dtype=torch.float64)
    energy = 0.5 * 4 * n * (t - math.log(0.3)) ** 2 + t
    energy = (
        energy + len(surviving) * t + surviving.double().square().sum() / (2 * torch.exp(2 * t))
    )
    assert scale == pytest.approx(t[energy.argmin()].exp().item(), rel=2e-2)


def exploding(rate):
    args = {"optim_args": {"lr": 0.01}, "lr_lambda": lambda epoch: rate if epoch else 1.0}
    return pyro.optim.LambdaLR({"optimizer": torch.optim.SGD, **args})


def fresh_like(likelihood, data):
    torch.manual_seed(0)
    return bp.BayesianModule(mlp(), bp.priors.normal(0.3), data.num_train, likelihood)


@pytest.mark.parametrize("rate", [1e30, 1e38])
@pytest.mark.parametrize("likelihood", [bp.categorical, bp.gaussian(1.0)])
def test_a_loss_that_is_not_finite_stops_the_fit_and_returns_what_there_is(likelihood, rate):
    """The learning rate explodes in the second epoch; Pyro's validation is on."""
    data = class_data()
    if likelihood is not bp.categorical:
        data = bp.Dataset(data.train_x, data.train_x[:, :3])
    with pytest.warns(RuntimeWarning, match="training stopped: the loss became"):
        result = short_fit(fresh_like(likelihood, data), data, optim=exploding(rate))
    assert "in epoch 2, step" in result.stopped and result.stopped in repr(result)
    assert result.state.epoch == 1 == len(result.history)
    assert all(torch.isfinite(w).all() for w in result.weights.values())


def test_weights_that_are_not_finite_after_the_last_step_stop_the_fit():
    data = class_data()
    data = bp.Dataset(1e4 * data.train_x, data.train_y)  # gradients large enough to overflow
    with pytest.warns(RuntimeWarning, match="a weight became NaN or infinite in epoch 2, step 1"):
        result = short_fit(fresh(), data, optim=exploding(1e40), batch_size=data.num_train)
    assert result.state.epoch == 1


def test_a_hand_written_model_that_diverges_stops_too():
    x, y, _ = linear_data(dim=3)
    with pytest.warns(RuntimeWarning, match="training stopped: .* epoch 2"):
        result = short_fit(
            regression(12, dim=3), (x, y), optim=exploding(1e200), pruning=None, batch_size=4
        )
    assert result.state.epoch == 1


def test_divergence_in_the_first_epoch_is_an_error_with_its_place():
    with pytest.raises(TrainingDiverged, match="epoch 1, step") as raised:
        short_fit(fresh(), class_data(), optim=SGD({"lr": 1e30}))
    assert raised.value.epoch == 1 and raised.value.step > 1


@pytest.mark.parametrize("name", ["model", "plates", "forward", "median", "w.forward"])
def test_site_names_that_are_attributes_of_guides(name):
    result = fit_once(written(name=name), (X, Y))
    assert_same({"w": result.weights[name]}, fit_once(written(), (X, Y)).weights)


def test_a_site_name_that_begins_anothers():
    nested = written(
        name="fc.weight.scale",
        extra=None,
    )

    def model(x, y=None):
        pyro.sample("fc.weight", dist.Normal(0.0, 1.0))
        return nested(x, y)

    assert set(fit_once(model, (X, Y)).weights) == {"fc.weight", "fc.weight.scale"}


class Wrapper(nn.Module):
    """The usual wrapper: its network is an attribute named model."""

    def __init__(self):
        super().__init__()
        self.model = nn.Linear(6, 3)

    def forward(self, x):
        return self.model(x)


def test_a_network_with_an_attribute_named_model():
    torch.manual_seed(0)
    wrapped, data = Wrapper(), class_data()
    plain = fit_once(lifted(copy.deepcopy(wrapped.model), data), data)
    result = fit_once(lifted(wrapped, data), data)
    assert_same({n.removeprefix("model."): w for n, w in result.weights.items()}, plain.weights)
