"""A temperature divides the log likelihood everywhere, against closed forms."""

import math

import numpy as np
import pyro
import pytest
import torch
from torch import nn

import pyro_bayesprune as bp
from pyro_bayesprune import diagnostics
from pyro_bayesprune.inference import evidence
from pyro_bayesprune.inference.samplers import posterior_draws
from pyro_bayesprune.pruning import criteria

NOISE, T = 0.5, 20.0


@pytest.fixture(scope="module")
def fit():
    """A linear regression at its mode at temperature T."""
    torch.manual_seed(0)
    x = torch.randn(60, 3, dtype=torch.float64)
    y = x @ torch.tensor([[1.0], [0.5], [-1.0]], dtype=torch.float64)
    y = y + NOISE * torch.randn(60, 1, dtype=torch.float64)
    net = nn.Linear(3, 1, bias=False).double()
    model = bp.BayesianModule(net, bp.priors.normal(0.8), 60, bp.gaussian(NOISE))
    mean, _ = tempered(x, y)
    result = bp.fit(
        model, (x, y), epochs=1, temperature=T, progress=False,
        initial_weights={"weight": mean.T}, optim=pyro.optim.SGD({"lr": 1e-12}),
    )  # fmt: skip
    return result, x, y


def tempered(x, y):
    precision = x.T @ x / NOISE**2 / T + torch.eye(3, dtype=x.dtype) / 0.8**2
    return torch.linalg.solve(precision, x.T @ y / NOISE**2 / T), torch.linalg.inv(precision)


@pytest.mark.parametrize("method", ["laplace", "last_layer_laplace", "nuts", "last_layer_nuts"])
def test_draws_are_those_of_the_tempered_posterior(fit, method):
    result, x, y = fit
    mean, covariance = tempered(x, y)
    many = 1500 if "nuts" in method else 20_000
    draws = posterior_draws(result, (x, y), method, draws=many, chains=1, warmup=150)
    assert draws.temperature == T
    values = draws.values[0]
    torch.testing.assert_close(values.mean(0), mean[:, 0], atol=0.03, rtol=0.02)
    expected = 1 / torch.linalg.inv(covariance).diagonal() if method == "laplace" else (
        covariance.diagonal()
    )  # fmt: skip
    torch.testing.assert_close(values.var(0), expected, rtol=0.15, atol=0)


@pytest.mark.parametrize("name", ["fisher", "opd", "snr", "savage_dickey"])
def test_criteria_know_the_temperature(fit, name):
    result, x, y = fit
    weights, masks = result.weights, result.masks
    scores = getattr(criteria, name)(
        weights, masks, model=result.model, data=(x, y), temperature=T
    )["weight"][0]
    theta = weights["weight"][0]
    ggn = (x.T @ x / NOISE**2 / T).diagonal()
    prior = 1 / 0.8**2
    marginal = 1 / tempered(x, y)[1].diagonal()
    delta = 3 / theta.square().sum()
    exact = {
        "fisher": ggn * theta**2 / 2,
        "opd": (ggn + prior) * theta**2,
        "snr": marginal.sqrt() * theta.abs(),
        "savage_dickey": (ggn + delta) * theta**2 / 2 - ((ggn + delta) / delta).log() / 2,
    }[name]
    torch.testing.assert_close(scores, exact)


@pytest.mark.parametrize("structure", ["full", "kron", "diagonal"])
def test_the_evidence_is_that_of_the_tempered_likelihood(fit, structure):
    result, x, y = fit
    found = evidence.log_evidence(
        result.model, result.weights, (x, y), structure=structure, temperature=T
    )
    constant = -30 * math.log(2 * math.pi * NOISE**2) / T + 30 * math.log(
        2 * math.pi * NOISE**2 * T
    )
    wide = 0.8**2 * x @ x.T + NOISE**2 * T * torch.eye(60, dtype=x.dtype)
    normal = torch.distributions.MultivariateNormal(torch.zeros(60, dtype=x.dtype), wide)
    exact = normal.log_prob(y[:, 0]).item() + constant
    if structure == "diagonal":
        assert found.log < exact
    else:
        assert found.log == pytest.approx(exact, abs=1e-6)


def test_loo_leaves_out_by_tempered_weights(fit):
    result, x, y = fit
    data = bp.Dataset(x, y, test_x=x[:5], test_y=y[:5])
    draws = posterior_draws(result, data, "last_layer_laplace", draws=4000)
    found = diagnostics.loo(diagnostics.to_arviz(draws, data))
    exact = 0.0
    for i in range(60):
        rest = torch.arange(60) != i
        mean, covariance = tempered(x[rest], y[rest])
        variance = x[i] @ covariance @ x[i] + NOISE**2
        exact += torch.distributions.Normal(x[i] @ mean[:, 0], variance.sqrt()).log_prob(y[i, 0])
    assert found.elpd_loo == pytest.approx(exact.item(), abs=0.3)
    assert np.asarray(found.pareto_k).max() < 0.7


def test_a_run_tells_its_temperature(tmp_path):
    config = bp.configure(hidden=(8,), epochs=1, temperature=0.5, sparsity=0.0)
    assert bp.run(config, out=tmp_path, progress=False).temperature == 0.5
