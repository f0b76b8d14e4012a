"""A fit leaves all else as it was, predicts with what it has trained, and finds known optima."""

import copy

import pyro
import pytest
import torch
from helpers import (
    assert_same,
    class_data,
    fitted,
    linear_data,
    net_weights,
    noisy_net,
    regression,
)
from helpers.trainings import fresh, short_fit
from pyro import poutine
from pyro.optim import SGD
from torch import nn

import pyro_bayesprune as bp


@pytest.mark.parametrize("prior", [bp.priors.normal(0.3), bp.priors.layer_scale()])
def test_a_fit_leaves_everything_of_the_callers_as_it_was(prior):
    model = fresh(noisy_net, prior=prior).eval()
    pyro.param("mine", torch.ones(2))
    pyro.enable_validation(False)
    before = copy.deepcopy(model.state_dict())
    generator, dtype = torch.get_rng_state(), torch.get_default_dtype()
    result = short_fit(model, class_data())
    assert_same(model.state_dict(), before)
    assert not model.training and not result.model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), generator)
    assert list(pyro.get_param_store().keys()) == ["mine"]
    assert not torch.distributions.Distribution._validate_args
    assert torch.get_default_dtype() == dtype
    assert (torch.tensor([1e-40]) * 1.0).item() != 0  # denormals are not flushed any more
    pyro.enable_validation(True)


def test_a_fit_of_a_handled_network_leaves_it_as_it_was():
    model = fresh(noisy_net)
    before = copy.deepcopy(model.state_dict())
    result = short_fit(poutine.scale(model, 0.5), class_data())
    assert_same(model.state_dict(), before)
    assert result.buffers["net.1.num_batches_tracked"] == 4 * 5
    assert set(result.masks) == {"0.weight", "4.weight"}


def test_changing_a_fits_weights_does_not_change_the_module():
    model = fresh()
    result = short_fit(model, class_data())
    before = net_weights(model.net)
    for weight in result.weights.values():
        weight.fill_(7.0)
    assert_same(net_weights(model.net), before)


def test_after_training_the_handler_changes_nothing():
    data, result = class_data(), short_fit(fresh(noisy_net), class_data())
    assert result.sparsity == 0.5
    logits = [
        poutine.trace(poutine.condition(m, data=result.weights)).get_trace(data.train_x)
        for m in (result.model.eval(), bp.pruned(result.model, result.masks))
    ]
    assert torch.equal(*(trace.nodes["obs"]["fn"].logits for trace in logits))
    assert bp.log_joint(result.model, result.weights, data) == bp.log_joint(
        result.model, result.weights, data, result.masks
    )


def test_predictions_use_the_trained_buffers():
    data, result = class_data(), short_fit(fresh(noisy_net), class_data())
    net = noisy_net()
    net.load_state_dict(
        result.weights | {n.removeprefix("net."): b for n, b in result.buffers.items()}
    )
    expected = net.eval()(data.validation_x).softmax(1)
    assert torch.allclose(result.predict_proba(data.validation_x), expected, atol=1e-6)


def test_a_pair_of_tensors_is_a_training_set():
    data = class_data()
    pair = short_fit(fresh(), (data.train_x, data.train_y))
    assert_same(pair.weights, short_fit(fresh(), data).weights)
    assert pair.history["validation_loss"].isna().all()


def test_a_fit_shows_nothing_where_it_is_told_so(capsys):
    short_fit(fresh(), class_data(), epochs=1)
    assert capsys.readouterr() == ("", "")
    short_fit(fresh(), class_data(), epochs=1, progress=True)
    assert "epoch 1/1" in capsys.readouterr().err


@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_the_map_of_a_hand_written_regression_is_ridge(temperature):
    x, y, _ = linear_data(dim=3)
    precision = x.T @ x / 0.5**2 / temperature + torch.eye(3) / 0.7**2
    ridge = torch.linalg.solve(precision, x.T @ y / 0.5**2 / temperature)
    model = regression(12, prior_scale=0.7, noise=0.5, dim=3)
    rate = SGD({"lr": 0.15 * temperature})
    result = short_fit(
        model, (x, y), pruning=None, epochs=60, batch_size=12, optim=rate, temperature=temperature
    )
    assert torch.allclose(result.weights["w"], ridge, rtol=0, atol=1e-6)
    assert torch.allclose(result.predict(x), x @ ridge, atol=1e-5)
    assert set(result.history["temperature"]) == {temperature}


def test_the_map_of_a_lifted_regression_is_ridge():
    x, y, _ = linear_data(dim=3)
    model = bp.BayesianModule(
        nn.Linear(3, 1, bias=False).double(), bp.priors.normal(0.7), 12, bp.gaussian(0.5)
    )
    result = short_fit(
        model, (x, y[:, None]), pruning=None, epochs=60, batch_size=12, optim=SGD({"lr": 0.15})
    )
    ridge = torch.linalg.solve(x.T @ x / 0.25 + torch.eye(3) / 0.49, x.T @ y / 0.25)
    assert torch.allclose(result.weights["weight"][0], ridge, rtol=0, atol=1e-6)


def test_maximum_likelihood_is_least_squares():
    x, y, _ = linear_data(dim=3)
    model = regression(12, prior_scale=0.01, dim=3)
    result = short_fit(
        model,
        (x, y),
        pruning=None,
        objective="mle",
        epochs=60,
        batch_size=12,
        optim=SGD({"lr": 0.5}),
    )
    assert torch.allclose(result.weights["w"], torch.linalg.lstsq(x, y).solution, atol=1e-6)


def test_a_pruned_regression_is_ridge_on_the_weights_that_are_left():
    x, y, _ = linear_data(dim=4)
    pruning = bp.Pruning(sparsity=0.5, gate="always", schedule="constant")
    model = regression(12, prior_scale=0.7, noise=0.5, dim=4)
    result = short_fit(
        model, (x, y), pruning=pruning, epochs=60, batch_size=12, optim=SGD({"lr": 0.15})
    )
    mask = result.masks["w"]
    inputs = x[:, mask]
    ridge = torch.linalg.solve(inputs.T @ inputs / 0.25 + torch.eye(2) / 0.49, inputs.T @ y / 0.25)
    assert torch.allclose(result.weights["w"][mask], ridge, rtol=0, atol=1e-6)
    assert (result.weights["w"][~mask] == 0).all() and result.sparsity == 0.5


class Shared(nn.Module):
    """A network of which two modules have the same buffer."""

    def __init__(self):
        super().__init__()
        self.mean, self.linear = nn.BatchNorm1d(6, affine=False), nn.Linear(6, 3)
        self.register_buffer("centre", self.mean.running_mean)

    def forward(self, x):
        return self.linear(self.mean(x) - self.centre)


def test_a_buffer_of_two_modules_is_the_same_in_the_fit():
    data = class_data()
    fit = fitted(Shared(), data)
    assert torch.equal(fit.module.centre, fit.module.mean.running_mean)
    now = bp.log_joint(fit.model, fit.weights, data).total
    assert now == pytest.approx(fit.history["log_joint_after"].iloc[-1])
