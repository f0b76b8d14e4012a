"""Thinned draws are some of each chain."""

import torch

from pyro_bayesprune.inference import samplers


def test_thinned_draws_are_some_of_each_chain(small_network):
    fit, data = small_network
    draws = samplers.posterior_draws(
        fit, data, "last_layer_nuts", draws=9, chains=2, warmup=4
    )  # fmt: skip
    few = draws.thinned(6)
    assert torch.equal(few.values, draws.values[:, [0, 4, 8]])
    assert few.stats["n_steps"].shape == (2, 3) and few.log_density.shape == (2, 3)
    assert torch.equal(draws.thinned(100).values, draws.values)
