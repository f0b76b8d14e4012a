"""NUTS: its density, its limit, and a posterior that is known."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import NOISE, PRIOR, around, class_data, lifted, linear_gaussian, mlp, net_weights
from scipy import stats
from scipy.special import expit, logsumexp

import pyro_bayesprune as bp
from pyro_bayesprune.inference import nuts, samplers
from pyro_bayesprune.inference.draws import gather, surviving


def test_log_density_is_the_log_joint(small_network):
    fit, data = small_network
    index = surviving(fit.weights, fit.masks, list(fit.weights))
    vector = gather(fit.weights, index).double()
    density = nuts.log_density(fit.model, fit.weights, index, data)
    exact = bp.log_joint(fit.model, fit.weights, data).total
    assert density(vector).item() == pytest.approx(exact, rel=1e-5)


def test_too_many_surviving_weights_for_nuts():
    data, net = class_data(), mlp(hidden=200)
    fit = around(lifted(net, data), net_weights(net))
    with pytest.raises(
        ValueError, match="nuts is for 1 to 1000 surviving weights, got .*: use last_layer"
    ):
        samplers.posterior_draws(fit, data, "nuts")


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
    result = draws.values.flatten(0, 1).mT.cov()
    assert torch.allclose(result, covariance, rtol=0.15, atol=0.1 * covariance.diag().max())
    assert not draws.stats["diverging"].any()


def grouped(num_data=12, prior=None):
    """A regression by hand with a pruned weight, group levels of a sampled scale, and noise."""

    def model(x, y=None):
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        scale = pyro.sample("scale", dist.LogNormal(-1.0, 0.5))
        noise = pyro.sample("noise", prior or dist.LogNormal(-1.0, 0.5))
        with pyro.plate("groups", 3):
            level = pyro.sample("level", dist.Normal(0.0, scale))
        with pyro.plate("data", num_data, subsample=x):
            mean = x[:, :2] @ w + level[x[:, 2].long()]
            return pyro.sample("y", dist.Normal(mean, noise), obs=y)

    return model


def grouped_fit(model):
    torch.manual_seed(0)
    x = torch.cat([torch.randn(12, 2), torch.arange(12)[:, None] % 3], 1)
    y = 2 * x[:, 0] + 0.1 * torch.randn(12)
    weights = {"w": torch.tensor([1.9, 0.0]), "scale": torch.tensor(0.4),
               "noise": torch.tensor(0.2), "level": torch.tensor([0.1, -0.2, 0.3])}  # fmt: skip
    return around(model, weights, {"w": torch.tensor([True, False])}), (x, y)


def test_the_density_of_a_model_by_hand_is_its_log_joint_with_the_jacobian():
    fit, data = grouped_fit(grouped())
    names = list(fit.weights)
    surface = nuts.of_sites(
        fit.model, fit.weights, surviving(fit.weights, fit.masks, names), data, 0.5
    )
    exact = bp.log_joint(fit.model, fit.weights, data, fit.masks, "dropped", temperature=0.5).total
    jacobian = (fit.weights["scale"] * fit.weights["noise"]).log()  # of the exponential
    assert len(surface.start) == 6 and not surface.is_smooth
    assert surface.density(surface.start).item() == pytest.approx(exact + jacobian.item(), rel=1e-5)
    values = surface.values(surface.start)
    assert values.tolist() == pytest.approx([1.9, 0.4, 0.2, 0.1, -0.2, 0.3])


def test_all_sites_of_a_model_by_hand_are_drawn_and_converted():
    from pyro_bayesprune.diagnostics import _arviz, conversion, statistics

    fit, data = grouped_fit(grouped())
    draws = samplers.posterior_draws(fit, data, "nuts", draws=15, chains=2, warmup=10)
    assert list(draws.index) == ["w", "scale", "noise", "level"]
    assert (draws.at(0, 3)["scale"] > 0) and draws.at(1, 2)["w"][1] == 0
    point = draws.at(1, 2)
    joint = bp.log_joint(fit.model, point, data, fit.masks, "dropped").total
    assert draws.log_density[1, 2].item() == pytest.approx(joint, rel=1e-4)
    idata = conversion.to_arviz(draws, bp.Dataset(*data), prior_draws=3)
    log_prior = _arviz.group(idata, "log_prior")
    assert set(log_prior) == {"w", "scale", "noise", "level"}
    likelihood = _arviz.group(idata, "log_likelihood")["obs"].sum("example")
    total = log_prior.to_array().sum("variable") + likelihood
    np.testing.assert_allclose(total, _arviz.group(idata, "sample_stats")["lp"], rtol=1e-4)
    assert _arviz.group(idata, "sample_stats")["energy"].shape == (2, 15)
    assert _arviz.group(idata, "posterior")["prediction"].shape == (2, 15, 12)
    assert "scale" in _arviz.group(idata, "posterior")["layer"]
    assert statistics.frequencies(idata)["observed"].sum() == pytest.approx(1)


def test_discrete_latent_sites_and_other_methods_are_refused():
    fit, data = grouped_fit(grouped(prior=dist.Poisson(1.0)))
    with pytest.raises(ValueError, match="the prior of 'noise', Poisson, has a support"):
        samplers.posterior_draws(fit, data, "nuts")
    with pytest.raises(ValueError, match="laplace need a BayesianModule.*use nuts"):
        samplers.posterior_draws(fit, data, "laplace")


def flat_model(x, y=None):
    """y ~ N(x w, NOISE²), w ~ N(0, PRIOR²), by hand."""
    w = pyro.sample("w", dist.Normal(x.new_zeros(4), PRIOR).to_event(1))
    with pyro.plate("data", len(x), subsample=x):
        return pyro.sample("y", dist.Normal(x @ w, NOISE), obs=y)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["pyro", "ours"])
def test_nuts_on_a_pruned_model_by_hand_finds_the_posterior_of_the_survivors(sampler):
    """Against the closed form, and pruned elements that do not drift."""
    from pyro.infer import MCMC, NUTS

    fit, (x, y), mean, covariance = linear_gaussian()
    mask = fit.masks["weight"][0]
    if sampler == "pyro":
        model = bp.pruned(flat_model, {"w": mask}, "sampled")
        mcmc = MCMC(NUTS(model), num_samples=1500, warmup_steps=300, disable_progbar=True)
        mcmc.run(x, y[:, 0])
        values = mcmc.get_samples()["w"]
        assert values[:, ~mask].std().item() == pytest.approx(PRIOR, rel=0.15)
    else:
        point = around(flat_model, {"w": torch.zeros(4, dtype=torch.float64)}, {"w": mask})
        draws = samplers.posterior_draws(
            point, (x, y[:, 0]), "nuts", draws=750, chains=2, warmup=300
        )
        values = torch.zeros(1500, 4, dtype=torch.float64)
        values[:, mask] = draws.values.flatten(0, 1)
    sd = covariance.diag().sqrt()
    assert ((values[:, mask].mean(0) - mean).abs() < 0.2 * sd).all()
    torch.testing.assert_close(values[:, mask].std(0), sd, rtol=0.15, atol=0)


def by_quadrature(name, x, y, keep):
    """Mean and sd of the posterior of w ~ N(0, 1), and log p(y_i | the kept y), on a grid."""
    grid = np.linspace(-4, 4, 4001)
    rates = {"poisson": lambda w: stats.poisson(np.exp(np.outer(w, x))),
             "bernoulli": lambda w: stats.bernoulli(expit(np.outer(w, x)))}  # fmt: skip
    by_example = rates[name](grid).logpmf(y)
    log = stats.norm.logpdf(grid) + by_example[:, keep].sum(1)
    weights = np.exp(log - logsumexp(log))
    mean = weights @ grid
    return mean, np.sqrt(weights @ (grid - mean) ** 2), np.log(weights @ np.exp(by_example))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["poisson", "bernoulli"])
def test_draws_loo_and_calibration_of_a_known_answer(name):
    """One weight, whose posterior quadrature knows; 1,000 test examples from the same model."""
    from pyro_bayesprune.diagnostics import conversion, statistics
    from pyro_bayesprune.inference import draw_predictions
    from pyro_bayesprune.models import likelihoods

    generator = torch.Generator().manual_seed(4)
    x = torch.randn(1040, 1, generator=generator, dtype=torch.float64)
    likelihood = getattr(likelihoods, name)
    torch.manual_seed(1)
    y = likelihood(0.8 * x).sample()
    net = torch.nn.Linear(1, 1, bias=False).double()
    model = bp.BayesianModule(net, bp.priors.normal(1.0), 40, likelihood)
    fit = around(model, {"weight": torch.full((1, 1), 0.5, dtype=torch.float64)})
    data = bp.Dataset(x[:40], y[:40], test_x=x[40:], test_y=y[40:])
    draws = samplers.posterior_draws(fit, data, "nuts", draws=500, chains=2, warmup=100)
    train = x[:40, 0].numpy(), y[:40, 0].numpy()
    mean, sd, _ = by_quadrature(name, *train, np.arange(40) >= 0)
    assert draws.values.mean().item() == pytest.approx(mean, abs=0.15 * sd)
    assert draws.values.std().item() == pytest.approx(sd, rel=0.1)
    exact = [by_quadrature(name, *train, np.arange(40) != i)[2][i] for i in range(40)]
    result = statistics.loo(conversion.to_arviz(draws, data, prior_draws=0))
    np.testing.assert_allclose(result.loo_i, exact, atol=0.04)
    predictions = draw_predictions.predictions(draws, (data.test_x, data.test_y))
    if name == "poisson":
        assert stats.kstest(predictions.pit[:, 0], "uniform").pvalue > 0.01
        assert predictions.coverage(0.9) == pytest.approx(0.9, abs=0.04)
    else:
        assert predictions.scores()["ece"] < 0.06
