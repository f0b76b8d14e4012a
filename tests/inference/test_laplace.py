"""Laplace draws against closed forms."""

import pytest
import torch
from helpers import linear_gaussian

from pyro_bayesprune.inference import laplace, layer_curvature, samplers
from pyro_bayesprune.inference.curvature import ggn_diagonal
from pyro_bayesprune.inference.draw_predictions import last_layer


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


def test_the_last_layers_curvature_is_that_of_the_whole_network(small_network):
    fit, data = small_network
    names, _ = last_layer(fit.model, fit.weights, data.train_x[:1])
    whole = ggn_diagonal(fit.model, fit.weights, data)
    part, given = (
        samplers.posterior_draws(fit, data, sites=names, draws=5, ggn=ggn) for ggn in (None, whole)
    )
    assert torch.allclose(part.values, given.values, atol=1e-5)


@pytest.mark.parametrize("pruned", [(), (1,)])
def test_last_layer_laplace_has_the_posterior_covariance(pruned):
    fit, data, mean, covariance = linear_gaussian(pruned=pruned)  # correlated: no diagonal is exact
    draws = samplers.posterior_draws(fit, data, "last_layer_laplace", draws=20_000)
    found, scale = draws.values[0], covariance.diag().sqrt()
    assert torch.allclose(found.mean(0), mean, atol=4 * scale.max() / 141)
    expected = covariance / scale / scale[:, None]
    assert torch.allclose(found.mT.cov() / scale / scale[:, None], expected, atol=0.04)
    assert (expected - torch.eye(len(expected))).abs().max() > 0.1


def test_last_layer_laplace_is_for_the_last_layer(small_network):
    fit, data = small_network
    with pytest.raises(ValueError, match="draws the last layer's parameters"):
        samplers.posterior_draws(fit, data, "last_layer_laplace", sites=["0.weight"])


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
