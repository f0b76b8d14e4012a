"""Which figure is which, and figures from a small store."""

import numpy as np
import pandas as pd

from pyro_bayesprune.experiments import statistics
from pyro_bayesprune.paper import drawing


def test_figures_have_the_papers_numbers():
    assert drawing.CURVES[4] == ("mnist", "fcn", 0.75)
    assert drawing.CURVES[19] == ("cifar10", "cnn", 0.9)
    assert drawing.CURVES[24] == ("mnist", "fcn", 0.5)
    assert drawing.CURVES[31] == ("mnist", "cnn", 0.99)
    assert drawing.CURVES[32] == ("fashion_mnist", "fcn", 0.25)
    assert drawing.CURVES[51] == ("cifar10", "cnn", 0.99)
    assert drawing.BY_LEVEL[9] == ("mnist", "cnn", "bayes_magnitude")
    assert drawing.BY_LEVEL[20] == ("cifar10", "cnn", "bayes_random")
    assert {*drawing.CURVES} | {*drawing.BY_LEVEL} == {*range(4, 52)}
    assert not {*drawing.CURVES} & {*drawing.BY_LEVEL}


def test_figures_are_made_of_what_is_there_and_the_others_named(store, tmp_path):
    written, missing = drawing.figures(store, tmp_path / "out")
    assert {path.name for path in written} == {
        f"{name}.png"
        for name in (
            "figure-04-mnist-fcn-75",
            "figure-26-mnist-fcn-75",
            "mnist-fcn-accuracy-against-compression",
            "mnist-fcn-75-twins",
            "mnist-fcn-75-sparsity-by-layer",
            "mnist-fcn-75-parts-of-the-log-bayes-factor",
        )
    }
    assert all(path.stat().st_size > 1000 for path in written)
    assert len(missing) == 48 - 2
    assert any("figure 22" in line and "bayes_magnitude 25%" in line for line in missing)


def test_learning_curves_draw_the_means_over_seeds(store):
    results = pd.read_csv(store / "results.csv")
    histories = statistics.twins(pd.read_csv(store / "histories.csv.gz"), results)
    figure = drawing._curves("mnist", "fcn", 0.75).draw(results, histories)
    left, factor, share = figure.axes
    lines = {(k.get_label(), k.get_linestyle()): k.get_ydata() for k in left.get_lines()}
    np.testing.assert_allclose(lines["Bayes magnitude", "--"], 1 / np.arange(1, 4) + 0.05)
    np.testing.assert_allclose(lines["Bayes magnitude", "-"], 1.1 / np.arange(1, 4))
    lines = {(k.get_label(), k.get_linestyle()): k.get_ydata() for k in factor.get_lines()}
    np.testing.assert_allclose(lines["Bayes magnitude", "-"], np.exp(np.full(3, -0.15)))
    np.testing.assert_allclose(lines["Bayes magnitude", ":"], np.exp([-0.15, 0, 0]))
    lines = {k.get_label(): k.get_ydata() for k in share.get_lines()}
    np.testing.assert_allclose(lines["Bayes random"], 0.75)
