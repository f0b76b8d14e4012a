"""Grids of configurations and controls: their number, order and sizes."""

import pytest
from helpers.grid_processes import small_grid

from pyro_bayesprune.experiments.config import configure
from pyro_bayesprune.experiments.designs import INPUTS, PAPER, controls, product, small_dense


def test_a_small_dense_control_has_as_many_weights():
    config = configure("paper", "magnitude", dataset="mnist", sparsity=0.9)
    widths = [INPUTS["mnist"], *small_dense(config), 10]
    weights = sum(n * m for n, m in zip(widths, widths[1:], strict=False))
    full = 784 * 1024 + 2 * 1024**2 + 1024 * 10
    assert weights == pytest.approx(0.1 * full, rel=0.01)


def test_controls_are_distinct_configurations():
    made = controls(configure("paper", "bayes_magnitude", dataset="mnist", sparsity=0.9))
    assert len({config.id for config in made.values()}) == len(made) == 10
    with pytest.raises(ValueError, match="cnn"):
        controls(configure("paper", "bayes_magnitude", network="cnn", sparsity=0.9))


def test_the_papers_grid_is_the_papers_size():
    configs = product("paper", **PAPER)
    assert len(configs) == 3 * 2 * (2 + 4 * 5) * 5
    assert len({config.id for config in configs}) == len(configs)


def test_a_grid_is_breadth_first_over_seeds():
    seeds = [c.seed for c in small_grid(sparsity=(0.5, 0.9), seed=(3, 1, 2))]
    assert seeds == [3, 3, 1, 1, 2, 2]


def test_methods_that_prune_nothing_appear_once():
    configs = small_grid(method=("unpruned", "bayes_unpruned", "random"), sparsity=(0.5, 0.9))
    pairs = [(config.method, config.sparsity) for config in configs]
    assert pairs == [("unpruned", 0), ("bayes_unpruned", 0), ("random", 0.5), ("random", 0.9)]
