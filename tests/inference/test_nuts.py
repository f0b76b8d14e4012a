"""NUTS: its density, its limit, and a posterior that is known."""

import numpy as np
import pytest
import torch
from helpers import around, class_data, lifted, linear_gaussian, mlp, net_weights

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
