"""Figures that compare methods and levels."""

import pandas as pd
import pytest
from helpers import drawn

from pyro_bayesprune.plots import methods, style


@pytest.mark.parametrize(("lowest", "scale"), [(0.01, "log"), (-0.5, "linear")])
def test_losses_by_level_are_logarithmic_where_they_can_be(lowest, scale):
    losses = pd.DataFrame({"level": [0.0, 0.0, 0.9, 0.9], "epoch": [1, 2, 1, 2], "seed": 0})
    figure = methods.loss_by_level(losses.assign(test_loss=[2.0, 1.0, 0.5, lowest]))
    assert figure.axes[0].get_yscale() == scale
    assert drawn(figure.axes[0])["90%"].tolist() == [[1, 2], [0.5, lowest]]


@pytest.mark.parametrize(("seeds", "explanation"), [([0, 0], "one seed"), ([0, 1], style.BAND)])
def test_the_legend_explains_bands_only_if_there_are_some(seeds, explanation):
    runs = pd.DataFrame({"level": 0.0, "epoch": 1, "seed": seeds, "test_loss": [0.1, 0.2]})
    figure = methods.loss_by_level(runs)
    assert figure.axes[0].get_legend().get_title().get_text() == f"target sparsity\n{explanation}"


def test_the_legend_distinguishes_lines_of_one_seed_and_of_several():
    runs = pd.DataFrame({"level": [0.0, 0.0, 0.9], "seed": [0, 1, 0], "epoch": 1, "test_loss": 0.1})
    title = methods.loss_by_level(runs).axes[0].get_legend().get_title().get_text()
    assert title.endswith(f"{style.BAND}\n({style.WITHOUT})")
