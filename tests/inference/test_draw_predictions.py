"""Predictions of draws: the last layer, linearised outputs, the prior."""

import pytest
import torch
from helpers import around, class_data, lifted, mlp, net_weights, random_masks
from torch import nn

import pyro_bayesprune as bp
from pyro_bayesprune.inference import samplers
from pyro_bayesprune.inference.draw_predictions import (
    draw_outputs,
    last_layer,
    network_of,
    prior_predictive,
)
from pyro_bayesprune.inference.draws import gather, scatter, surviving


def test_the_last_layer_is_found_and_agrees_with_the_whole_network(small_network):
    fit, data = small_network
    names, features = last_layer(fit.model, fit.weights, data.train_x)
    assert names == ["2.weight", "2.bias"] and features.shape == (len(data.train_x), 8)
    index = surviving(fit.weights, fit.masks, names)
    short = network_of(fit.model, fit.weights, index, data.train_x)
    vector = gather(fit.weights, index) + 1
    full = fit.model.outputs(fit.weights | scatter(vector, fit.weights, index), data.train_x)
    assert torch.allclose(short(vector), full, atol=1e-5)


def test_a_network_that_does_not_end_in_a_linear_layer_is_an_error():
    data, net = class_data(), nn.Sequential(nn.Linear(6, 3), nn.Tanh())
    fit = around(lifted(net, data), net_weights(net))
    with pytest.raises(ValueError, match="does not end in a Linear"):
        samplers.posterior_draws(fit, data, "last_layer_nuts")


def test_linearised_outputs_are_those_of_the_jacobian(small_network):
    fit, data = small_network
    draws = samplers.posterior_draws(fit, data, "laplace", draws=3)
    x = data.train_x[:4]
    outputs = draw_outputs(draws, x)

    def forward(vector):
        return fit.model.outputs(fit.weights | scatter(vector, fit.weights, draws.index), x)

    centre = gather(fit.weights, draws.index)
    jacobian = torch.autograd.functional.jacobian(forward, centre)
    expected = forward(centre) + jacobian @ (draws.values[0, 0] - centre)
    assert torch.allclose(outputs[0, 0], expected, atol=1e-4)


class SmallConv(nn.Sequential):
    """Two convolutions and two linear layers."""

    def __init__(self):
        first, second = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 4, 3, stride=2, bias=False)
        shape = (nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 3))
        super().__init__(first, nn.ReLU(), second, nn.ReLU(), *shape)


@pytest.mark.parametrize("net", [mlp, SmallConv])
def test_the_jacobian_route_agrees_with_tangents(net, monkeypatch):
    torch.manual_seed(0)
    x = torch.randn(7, 6) if net is mlp else torch.randn(7, 1, 6, 6)
    module, y = net(), torch.randint(3, (7,))
    weights = net_weights(module)
    model = bp.BayesianModule(module, bp.priors.normal(0.3), 7)
    fit = around(model, weights, random_masks(weights, 0.8))
    draws = samplers.posterior_draws(fit, (x, y), "laplace", draws=4)
    monkeypatch.setattr("pyro_bayesprune.inference.draw_predictions.FEW", 1000)
    fast = draw_outputs(draws, x)
    monkeypatch.setattr("pyro_bayesprune.inference.draw_predictions.FEW", 0)
    slow = draw_outputs(draws, x)
    assert torch.allclose(fast, slow, atol=1e-4) and fast.shape == (1, 4, 7, 3)
    assert (fast[0, 0] - fast[0, 1]).abs().max() > 0.1


def test_prior_predictive_classes_before_any_training(small_network):
    fit, data = small_network
    obs = prior_predictive(fit.model, data.train_x, draws=40)
    assert obs.shape == (40, len(data.train_x)) and set(obs.unique().tolist()) <= {0, 1, 2}
    frequencies = torch.bincount(obs.flatten(), minlength=3) / obs.numel()
    assert (frequencies - 1 / 3).abs().max() < 0.25  # a symmetric prior favours no class


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.out = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        return self.out(self.attention(x, x, x)[0].mean(1))


def test_linearised_outputs_of_attention():
    torch.manual_seed(0)
    x, net, fast = torch.randn(12, 5, 4), Attention(), torch.backends.mha.get_fastpath_enabled()
    model = bp.BayesianModule(net, bp.priors.normal(1.0), 12)
    data = bp.Dataset(x, torch.arange(12) % 3)
    draws = samplers.posterior_draws(around(model, net_weights(net)), data, "laplace", draws=2)
    centre, change = gather(draws.weights, draws.index), 1e-3
    moved = centre + change * (draws.values[0, 0] - centre)
    with torch.no_grad():
        start, end = (
            model.eval().outputs(scatter(vector.double(), draws.weights, draws.index), x.double())
            for vector in (centre, moved)
        )
    expected = start + (end - start) / change
    assert torch.allclose(draw_outputs(draws, x)[0, 0].double(), expected, rtol=0.05, atol=0.05)
    assert torch.backends.mha.get_fastpath_enabled() == fast
