"""Draws around a pruned point: what holds for every method."""

from typing import get_args

import pytest
import torch
from helpers import around

from pyro_bayesprune.inference import samplers
from pyro_bayesprune.inference.draws import Method


@pytest.mark.parametrize("method", get_args(Method))
def test_pruned_weights_are_zero_in_every_draw(small_network, method):
    fit, data = small_network
    draws = samplers.posterior_draws(fit, data, method, draws=5, chains=2, warmup=5)
    masks = {n: fit.masks.get(n, torch.ones_like(w, dtype=torch.bool))
            for n, w in fit.weights.items()}  # fmt: skip
    for chain in range(draws.values.shape[0]):
        for draw in range(5):
            weights = draws.at(chain, draw)
            for name, mask in masks.items():
                assert not weights[name][~mask].any()
                drawn = name in draws.index
                assert (weights[name][mask] != fit.weights[name][mask]).all() == drawn
    assert draws.values.shape == (1 if draws.independent else 2, 5, len(draws.values[0, 0]))


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
