"""Figures that compare methods and levels."""

import numpy as np
import pandas as pd
import pytest
from helpers import drawn
from scipy import stats

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


def scores(**columns):
    columns = {"method": "bayes_magnitude", "sparsity": 0.9, "compression_ratio": 10.0} | columns
    return pd.DataFrame(columns)


def bars(ax):
    """The error bars of each method: position, low and high."""
    segments = {bar.get_label(): bar.lines[2][0].get_segments() for bar in ax.containers}
    return {name: [(*bar[0], bar[1][1]) for bar in of] for name, of in segments.items()}


def test_the_accuracy_of_one_seed_has_a_binomial_interval():
    results = scores(sparsity=[0.5, 0.9], compression_ratio=[2, 10], test_accuracy=[0.95, 0.9])
    (ax,) = methods.accuracy_against_compression(results, num_test=1000).axes
    expected = [
        (x, *stats.binomtest(k, 1000).proportion_ci(method="wilson"))
        for x, k in [(2, 950), (10, 900)]
    ]
    np.testing.assert_allclose(bars(ax)["Bayes magnitude"], expected)
    assert "binomial, 1,000 test examples" in ax.get_legend().get_title().get_text()


@pytest.mark.parametrize("score", ["accuracy", "rmse"])
def test_the_mean_of_several_seeds_has_a_t_interval(score):
    values = [0.90, 0.92, 0.93]
    results = scores(**{f"test_{score}": values}, compression_ratio=[9, 10, 11])
    figure = methods.accuracy_against_compression(results, score=score, num_test=1000)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    np.testing.assert_allclose(bars(figure.axes[0])["Bayes magnitude"], [(10, low, high)])
    title = figure.axes[0].get_legend().get_title().get_text()
    assert title == "bars: 95% intervals (t over seeds)"


def test_the_axis_of_accuracies_spans_at_least_the_interval_of_the_test_set():
    results = scores(test_accuracy=[0.9, 0.9002, 0.8998])
    (ax,) = methods.accuracy_against_compression(results, num_test=100).axes
    low, high = stats.binomtest(90, 100).proportion_ci(method="wilson")
    bottom, top = ax.get_ylim()
    assert bottom <= low and high <= top
    (ax,) = methods.accuracy_against_compression(results).axes
    assert np.diff(ax.get_ylim()) < 0.002


def test_the_points_of_methods_do_not_overlap_and_unpruned_methods_are_lines():
    names = ["unpruned", "magnitude", "bayes_magnitude"]
    results = scores(method=names, sparsity=[0, 0.9, 0.9], test_accuracy=[0.95, 0.9, 0.9])
    (ax,) = methods.accuracy_against_compression(results, num_test=1000).axes
    positions = {name: of[0][0] for name, of in bars(ax).items()}
    assert positions["magnitude"] * methods.SHIFT == pytest.approx(positions["Bayes magnitude"])
    assert np.sqrt(np.prod(list(positions.values()))) == pytest.approx(10)
    np.testing.assert_allclose(drawn(ax)["unpruned (dense)"], [[0, 1], [0.95, 0.95]])


def test_runs_without_a_look_of_their_own_are_drawn_under_their_names():
    names = ["auto, σ=0.3", "auto, σ=1", "custom"]
    results = scores(method=names, sparsity="auto", test_accuracy=[0.9, 0.8, 0.7])
    (ax,) = methods.accuracy_against_compression(results, num_test=1000).axes
    assert set(bars(ax)) == set(names)
    looks = style.looks(names)
    assert len({(look.colour, look.marker) for look in looks.values()}) == 3
    assert looks["custom"] is style.CUSTOM


def test_the_compression_has_plain_ticks():
    results = scores(sparsity=[0.5, 0.99], compression_ratio=[2, 60], test_accuracy=[0.9, 0.8])
    figure = methods.accuracy_against_compression(results)
    figure.draw_without_rendering()
    labels = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert labels == ["2x", "5x", "10x", "20x", "50x"]


def test_twins_have_a_common_symmetric_logarithmic_scale():
    parts = {"log_likelihood_ratio": [-900.0, 30.0], "log_prior_ratio": [7.0, 9.0]}
    columns = {f"twin_{name}": values for name, values in parts.items()}
    columns["twin_log_bf"] = np.add(*parts.values())
    histories = pd.DataFrame({"method": "magnitude", "epoch": [1, 2], "seed": 0} | columns)
    figure = methods.twins(histories)
    for ax, name in zip(figure.axes, ("log_bf", *parts), strict=True):
        assert drawn(ax)["magnitude"][1].tolist() == list(columns[f"twin_{name}"])
        assert ax.get_yscale() == "symlog" and ax.get_title() == style.PARTS[name].label
    assert len({ax.get_ylim() for ax in figure.axes}) == 1


def test_a_frame_without_rows_is_refused():
    frame = pd.DataFrame(columns=["method", "sparsity", "compression_ratio", "test_accuracy"])
    with pytest.raises(ValueError, match="the frame has no rows"):
        methods.accuracy_against_compression(frame)


def test_without_a_held_out_loss_the_training_loss_is_drawn():
    history = pd.DataFrame({"epoch": [1, 2], "level": 0.5, "train_loss": [2.0, 1.0]})
    (ax,) = methods.loss_by_level(history).axes
    assert ax.get_ylabel().startswith("train loss")
