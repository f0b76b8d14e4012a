"""Draws around a pruned point: against closed forms, and on networks."""

from typing import get_args

import numpy as np
import pytest
import torch
from helpers import around, class_data, lifted, linear_gaussian, mlp, net_weights, random_masks
from torch import nn

import pyro_bayesprune as bp
from pyro_bayesprune.inference import laplace, layer_curvature, nuts, samplers
from pyro_bayesprune.inference.curvature import ggn_diagonal
from pyro_bayesprune.inference.draw_predictions import (
    draw_outputs,
    last_layer,
    network_of,
    prior_predictive,
)
from pyro_bayesprune.inference.draws import Method, gather, scatter, surviving


@pytest.fixture
def small_network():
    torch.manual_seed(0)
    data, net = class_data(), mlp()
    masks = random_masks(net_weights(net), 0.5)
    return around(lifted(net, data), net_weights(net), masks), data


@pytest.mark.parametrize("method", get_args(Method))
def test_pruned_weights_are_zero_in_every_draw(small_network, method):
    fit, data = small_network
    draws = samplers.posterior_draws(fit, data, method, draws=5, chains=2, warmup=5)
    kept = {n: fit.masks.get(n, torch.ones_like(w, dtype=torch.bool))
            for n, w in fit.weights.items()}  # fmt: skip
    for chain in range(draws.values.shape[0]):
        for draw in range(5):
            weights = draws.at(chain, draw)
            for name, mask in kept.items():
                assert not weights[name][~mask].any()
                drawn = name in draws.index
                assert (weights[name][mask] != fit.weights[name][mask]).all() == drawn
    assert draws.values.shape == (1 if draws.independent else 2, 5, len(draws.values[0, 0]))


def test_laplace_draws_have_the_posterior_covariance():
    fit, data, mean, covariance = linear_gaussian(orthogonal=True)  # so the diagonal is exact
    draws = samplers.posterior_draws(fit, data, "laplace", draws=20_000)
    found = draws.values[0]
    assert torch.allclose(found.mean(0), mean, atol=4 * covariance.diag().max().sqrt() / 141)
    scale = covariance.diag().sqrt()
    correlation = found.mT.cov() / scale[:, None] / scale
    assert torch.allclose(correlation, torch.eye(3).double(), atol=0.04)


def test_laplace_draws_come_with_their_log_density():
    fit, data, mean, covariance = linear_gaussian(orthogonal=True)
    draws = samplers.posterior_draws(fit, data, "laplace", draws=50)
    exact = torch.distributions.MultivariateNormal(mean, covariance).log_prob(draws.values[0])
    difference = exact - draws.log_density[0]
    assert torch.allclose(difference, difference[:1].expand(50))


def test_log_density_is_the_log_joint(small_network):
    fit, data = small_network
    index = surviving(fit.weights, fit.masks, list(fit.weights))
    vector = gather(fit.weights, index).double()
    density = nuts.log_density(fit.model, fit.weights, index, data)
    exact = bp.log_joint(fit.model, fit.weights, data).total
    assert density(vector).item() == pytest.approx(exact, rel=1e-5)


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


def test_the_last_layers_curvature_is_that_of_the_whole_network(small_network):
    fit, data = small_network
    names, _ = last_layer(fit.model, fit.weights, data.train_x[:1])
    whole = ggn_diagonal(fit.model, fit.weights, data)
    part, given = (
        samplers.posterior_draws(fit, data, sites=names, draws=5, ggn=ggn) for ggn in (None, whole)
    )
    assert torch.allclose(part.values, given.values, atol=1e-5)


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


def test_draws_of_one_seed_are_the_same_and_leave_the_random_state_alone(small_network):
    fit, data = small_network
    before = torch.random.get_rng_state()
    first, again = (
        samplers.posterior_draws(fit, data, "last_layer_nuts", draws=4, chains=2, warmup=4)
        for _ in range(2)
    )
    assert torch.equal(first.values, again.values)
    assert not torch.equal(first.values[0], first.values[1])
    assert torch.equal(before, torch.random.get_rng_state())


def test_what_does_not_fit_is_an_error_that_says_so(small_network):
    fit, data = small_network
    with pytest.raises(ValueError, match="method must be one of"):
        samplers.posterior_draws(fit, data, "gibbs")
    with pytest.raises(ValueError, match="unknown sites"):
        samplers.posterior_draws(fit, data, sites=["nowhere"])
    with pytest.raises(ValueError, match="draws must be a positive integer"):
        samplers.posterior_draws(fit, data, draws=0)
    with pytest.raises(ValueError, match="do not fit in memory"):
        samplers.posterior_draws(fit, data, draws=10**8)
    with pytest.raises(ValueError, match="BayesianModule"):
        samplers.posterior_draws(around(lambda x, y: None, {}), data)


def test_too_many_surviving_weights_for_nuts():
    data, net = class_data(), mlp(hidden=200)
    fit = around(lifted(net, data), net_weights(net))
    with pytest.raises(
        ValueError, match="nuts is for 1 to 1000 surviving weights, got .*: use last_layer"
    ):
        samplers.posterior_draws(fit, data, "nuts")


def test_prior_predictive_classes_before_any_training(small_network):
    fit, data = small_network
    obs = prior_predictive(fit.model, data.train_x, draws=40, masks=fit.masks)
    assert obs.shape == (40, len(data.train_x)) and set(obs.unique().tolist()) <= {0, 1, 2}
    frequencies = torch.bincount(obs.flatten(), minlength=3) / obs.numel()
    assert (frequencies - 1 / 3).abs().max() < 0.25  # a symmetric prior favours no class


@pytest.mark.slow
def test_nuts_finds_the_posterior_of_a_linear_gaussian_model():
    """4 chains of 1,000: rhat at most 1.01, means within 4 Monte Carlo standard errors."""
    from pyro_bayesprune.diagnostics._arviz import az

    fit, data, mean, covariance = linear_gaussian()
    draws = samplers.posterior_draws(fit, data, "nuts", draws=1000, chains=4, warmup=300)
    values = az.convert_to_dataset({"w": draws.values.numpy()})
    assert float(az.rhat(values)["w"].max()) <= 1.01
    error = np.abs(draws.values.mean((0, 1)).numpy() - mean.numpy())
    assert (error <= 4 * az.mcse(values)["w"].to_numpy()).all()
    found = draws.values.flatten(0, 1).mT.cov()
    assert torch.allclose(found, covariance, rtol=0.15, atol=0.1 * covariance.diag().max())
    assert not draws.stats["diverging"].any()


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


def test_thinned_draws_are_some_of_each_chain(small_network):
    fit, data = small_network
    draws = samplers.posterior_draws(
        fit, data, "last_layer_nuts", draws=9, chains=2, warmup=4
    )  # fmt: skip
    few = draws.thinned(6)
    assert torch.equal(few.values, draws.values[:, [0, 4, 8]])
    assert few.stats["n_steps"].shape == (2, 3) and few.log_density.shape == (2, 3)
    assert torch.equal(draws.thinned(100).values, draws.values)


@pytest.mark.parametrize("pruned", [(), (1,)])
def test_last_layer_laplace_has_the_posterior_covariance(pruned):
    fit, data, mean, covariance = linear_gaussian(pruned=pruned)  # correlated: no diagonal is exact
    draws = samplers.posterior_draws(fit, data, "last_layer_laplace", draws=20_000)
    found, scale = draws.values[0], covariance.diag().sqrt()
    assert torch.allclose(found.mean(0), mean, atol=4 * scale.max() / 141)
    expected = covariance / scale / scale[:, None]
    assert torch.allclose(found.mT.cov() / scale / scale[:, None], expected, atol=0.04)
    assert (expected - torch.eye(len(expected))).abs().max() > 0.1


def test_the_factors_of_a_whole_layer_and_of_its_survivors_agree(small_network):
    fit, _ = small_network
    generator = torch.Generator().manual_seed(2)
    a, b = (torch.randn(n, n + 2, generator=generator, dtype=torch.float64) for n in (4, 3))
    kron = layer_curvature.Kron(a @ a.mT, b @ b.mT)
    index, noise = torch.arange(12), torch.eye(12, dtype=torch.float64)
    whole = laplace._kron_noise(kron, index, torch.ones(12), noise)
    delta = torch.ones(12, dtype=torch.float64)
    delta[0] += 1e-9  # not one number: by factorisation
    part = laplace._kron_noise(kron, index, delta, noise)
    exact = torch.linalg.inv(torch.kron(kron.outputs, kron.inputs) + torch.eye(12).double())
    for found in (whole, part):
        assert torch.allclose(found.mT @ found, exact, atol=1e-6)


def test_last_layer_laplace_is_for_the_last_layer(small_network):
    fit, data = small_network
    with pytest.raises(ValueError, match="draws the last layer's parameters"):
        samplers.posterior_draws(fit, data, "last_layer_laplace", sites=["0.weight"])
