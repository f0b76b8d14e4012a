"""Laplace draws against closed forms."""

from collections import OrderedDict

import pytest
import torch
from helpers import around, linear_gaussian, net_weights
from torch import nn

import pyro_bayesprune as bp
from pyro_bayesprune.inference import laplace, samplers
from pyro_bayesprune.inference.curvature import ggn_diagonal, prior_precision
from pyro_bayesprune.inference.draw_predictions import last_layer


def test_laplace_draws_have_the_posterior_covariance():
    fit, data, mean, covariance = linear_gaussian(orthogonal=True)  # so the diagonal is exact
    draws = samplers.posterior_draws(fit, data, "laplace", draws=20_000)
    result = draws.values[0]
    assert torch.allclose(result.mean(0), mean, atol=4 * covariance.diag().max().sqrt() / 141)
    scale = covariance.diag().sqrt()
    correlation = result.mT.cov() / scale[:, None] / scale
    assert torch.allclose(correlation, torch.eye(3).double(), atol=0.04)


def test_laplace_draws_come_with_their_log_density():
    fit, data, mean, covariance = linear_gaussian(orthogonal=True)
    draws = samplers.posterior_draws(fit, data, "laplace", draws=50)
    exact = torch.distributions.MultivariateNormal(mean, covariance).log_prob(draws.values[0])
    difference = exact - draws.log_density[0]
    assert torch.allclose(difference, difference[:1].expand(50))


def test_the_last_layers_curvature_is_that_of_the_whole_network(small_network, monkeypatch):
    fit, data = small_network
    names, _ = last_layer(fit.model, fit.weights, data.train_x[:1])
    part = samplers.posterior_draws(fit, data, sites=names, draws=5)
    monkeypatch.setattr(laplace, "only_last_layer", lambda *_: None)
    whole = samplers.posterior_draws(fit, data, sites=names, draws=5)
    assert torch.allclose(part.values, whole.values, atol=1e-5)


@pytest.mark.parametrize("pruned", [(), (1,)])
def test_last_layer_laplace_has_the_posterior_covariance(pruned):
    fit, data, mean, covariance = linear_gaussian(pruned=pruned)  # correlated: no diagonal is exact
    draws = samplers.posterior_draws(fit, data, "last_layer_laplace", draws=20_000)
    result, scale = draws.values[0], covariance.diag().sqrt()
    assert torch.allclose(result.mean(0), mean, atol=4 * scale.max() / 141)
    expected = covariance / scale / scale[:, None]
    assert torch.allclose(result.mT.cov() / scale / scale[:, None], expected, atol=0.04)
    assert (expected - torch.eye(len(expected))).abs().max() > 0.1


def test_last_layer_laplace_is_for_the_last_layer(small_network):
    fit, data = small_network
    with pytest.raises(ValueError, match="draws the last layer's parameters"):
        samplers.posterior_draws(fit, data, "last_layer_laplace", sites=["0.weight"])


@pytest.mark.parametrize("method", ["laplace", "last_layer_laplace"])
def test_the_last_layer_is_drawn_under_priors_by_site(method):
    inner = nn.Sequential(OrderedDict(c=nn.Linear(5, 3)))
    net = nn.Sequential(OrderedDict(a=nn.Linear(4, 5), b=inner))
    prior = bp.priors.by_site({"a.*": bp.priors.normal(0.3), "b.c.*": bp.priors.normal(0.5)})
    fit = around(bp.BayesianModule(net, prior, 30), net_weights(net))
    data = torch.randn(30, 4), torch.randint(0, 3, (30,))
    draws = samplers.posterior_draws(fit, data, method, sites=["b.c.weight", "b.c.bias"], draws=2)
    assert draws.values.shape == (1, 2, 18)


@pytest.mark.parametrize("prior", [bp.priors.layer_scale(0.3), bp.priors.evidence_normal(0.3)])
@pytest.mark.parametrize("method", ["laplace", "last_layer_laplace"])
def test_the_last_layer_is_drawn_with_the_scales_that_its_prior_learnt(prior, method):
    torch.manual_seed(0)
    data = bp.Dataset(torch.randn(60, 5), torch.arange(60) % 3)
    model = bp.BayesianModule(nn.Linear(5, 3), prior, 60)
    fit = bp.fit(model, data, epochs=40, progress=False)
    drawn = []
    for seed in (1, 2):  # numbers of the user's own must not matter
        torch.manual_seed(seed)
        drawn.append(samplers.posterior_draws(fit, data, method, draws=4000, seed=0).values)
    assert torch.equal(*drawn)
    if method == "laplace":
        precision = prior_precision(model, fit.weights)
        expected = ggn_diagonal(model, fit.weights, data)["weight"] + precision["weight"]
        spread = drawn[0][0].double().std(0)[: expected.numel()]
        torch.testing.assert_close(spread, expected.flatten().rsqrt(), rtol=0.05, atol=0.0)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(self.fc(x).relu())


@pytest.mark.parametrize("method", ["last_layer_laplace", "last_layer_nuts"])
def test_a_last_layer_that_is_used_earlier_too_is_refused(method):
    data = bp.Dataset(torch.randn(40, 4), torch.arange(40) % 4)
    model = bp.BayesianModule(Twice(), bp.priors.normal(0.5), 40)
    fit = bp.fit(model, data, epochs=2, progress=False)
    with pytest.raises(ValueError, match="does not end in a Linear layer of vectors that trains"):
        samplers.posterior_draws(fit, data, method, draws=10)
