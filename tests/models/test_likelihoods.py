"""Likelihoods: an event for each example, their curvature, a noise that is learnt."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_bayesprune as bp
from pyro_bayesprune.inference import curvature
from pyro_bayesprune.models.likelihoods import bernoulli, categorical, gaussian, poisson

LIKELIHOODS = {
    "categorical": (categorical, (9, 4), lambda: torch.randint(0, 4, (9,))),
    "tokens": (categorical, (9, 5, 4), lambda: torch.randint(0, 4, (9, 5))),
    "bernoulli": (bernoulli, (9, 1), lambda: torch.randint(0, 2, (9, 1)).float()),
    "labels": (bernoulli, (9, 3), lambda: torch.randint(0, 2, (9, 3)).float()),
    "one number": (gaussian(0.3), (9,), lambda: torch.randn(9)),
    "gaussian": (gaussian(0.3), (9, 2), lambda: torch.randn(9, 2)),
    "poisson": (poisson, (9, 2), lambda: torch.randint(0, 5, (9, 2)).float()),
}


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_several_targets_are_one_event_for_each_example(name):
    likelihood, shape, targets = LIKELIHOODS[name]
    fn, y = likelihood(torch.randn(shape)), targets()
    assert fn.batch_shape == (9,) and fn.shape() == y.shape
    assert fn.log_prob(y).shape == (9,)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_the_curvature_is_minus_the_expected_hessian_in_the_outputs(name):
    """For these likelihoods the Hessian does not depend on the targets."""
    likelihood, shape, targets = LIKELIHOODS[name]
    outputs, y = torch.randn(shape, dtype=torch.float64), targets()
    columns = torch.stack(list(curvature.root_columns(likelihood, outputs)), -1)

    def loss(flat):
        return -likelihood(flat.view(shape)).log_prob(y.double()).sum()

    hessian = torch.autograd.functional.hessian(loss, outputs.flatten())
    size = hessian.shape[0] // 9
    for i, rows in enumerate(columns):
        part = slice(i * size, (i + 1) * size)
        torch.testing.assert_close(rows @ rows.mT, hessian[part, part])


@pytest.mark.parametrize("name", ["tokens", "labels", "poisson"])
def test_the_diagonal_of_the_ggn_is_that_of_the_full_matrix(name, double):
    torch.manual_seed(0)
    likelihood, shape, targets = LIKELIHOODS[name]
    net = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, shape[-1]))
    x, y = torch.randn(*shape[:-1], 3), targets()
    model = bp.BayesianModule(net, bp.priors.normal(1.0), 9, likelihood)
    weights = {n: p.detach() for n, p in net.named_parameters()}
    full = curvature.ggn_full(model, weights, (x, y))
    result = curvature.flat(model, curvature.ggn_diagonal(model, weights, (x, y)))
    torch.testing.assert_close(result, full.diagonal())


def test_a_learnt_noise_is_fitted_together_with_the_weights():
    torch.manual_seed(0)
    x = torch.randn(400, 2)
    y = x @ torch.tensor([[1.0], [-2.0]]) + 0.25 * torch.randn(400, 1)
    prior = dist.LogNormal(0.0, 1.0)
    model = bp.BayesianModule(nn.Linear(2, 1), bp.priors.normal(1.0), 400, gaussian(prior))
    optim = pyro.optim.Adam({"lr": 0.03})
    fit = bp.fit(model, (x, y), epochs=60, optim=optim, progress=False)
    residual = (fit.predict(x) - y).square().mean().sqrt()
    assert fit.weights["noise"] == pytest.approx(residual.item(), rel=0.03)
    joint = bp.log_joint(model, fit.weights, (x, y))
    noise = fit.weights["noise"]
    expected = dist.Normal(fit.module(x), noise).log_prob(y).sum().item()
    assert joint.log_likelihood == pytest.approx(expected, rel=1e-4)
    weights = {n: w for n, w in fit.weights.items() if n != "noise"}
    log_prior = sum(dist.Normal(0, 1).log_prob(w).sum() for w in weights.values())
    assert joint.log_prior == pytest.approx((log_prior + prior.log_prob(noise)).item(), rel=1e-4)


def test_a_likelihood_that_samples_is_not_trained_on_samples_of_its_prior():
    """A user's function that samples a scale, in the way of `gaussian` with a prior."""
    torch.manual_seed(0)
    x = torch.randn(200, 1)
    y = 2 * x + 0.1 * torch.randn(200, 1)

    def likelihood(outputs):
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        return dist.Normal(outputs, scale).to_event(1)

    model = bp.BayesianModule(nn.Linear(1, 1), bp.priors.normal(3.0), 200, likelihood)
    optim = pyro.optim.Adam({"lr": 0.05})
    fit = bp.fit(model, (x, y), epochs=60, optim=optim, progress=False)
    assert fit.weights["scale"] == pytest.approx(0.1, rel=0.2)
    assert model.likelihood_at(fit.weights)(x).base_dist.scale[0].item() == pytest.approx(
        fit.weights["scale"].item()
    )


def test_a_prior_of_the_noise_is_of_one_number():
    with pytest.raises(ValueError, match="of one number"):
        gaussian(dist.LogNormal(torch.zeros(2), 1.0))
    with pytest.raises(ValueError, match="positive"):
        gaussian(0.0)
    assert math.isclose(gaussian(2.0)(torch.zeros(1)).stddev.item(), 2.0)


def test_the_gaussian_likelihood_is_an_event_for_each_example():
    for outputs, event in ((torch.zeros(5), 0), (torch.zeros(5, 2), 1), (torch.zeros(5, 2, 3), 2)):
        target = bp.gaussian(0.1)(outputs)
        assert target.batch_shape == (5,) and len(target.event_shape) == event
