"""Plain ticks, the scale of log Bayes factors, and intervals of scores."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy import stats

from pyro_bayesprune.plots import is_uniform, scales


@pytest.fixture
def ax():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


def labels(axis):
    axis.get_figure().draw_without_rendering()
    return [text.get_text() for text in axis.get_ticklabels()]


@pytest.mark.parametrize(("limits", "expected"), [
    ((0.08, 0.6), ["0.1", "0.2", "0.5"]),
    ((0.005, 3), ["0.005", "0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1", "2"]),
    ((0.001, 30000), ["0.001", "0.01", "0.1", "1", "10", "100", "1,000", "10,000"]),
    ((0.21, 0.48), ["0.3", "0.4"]),  # no power of ten inside
])  # fmt: skip
def test_ticks_of_a_logarithmic_axis_are_plain_numbers(ax, limits, expected):
    ax.set(yscale="log", ylim=limits)
    scales.plain_ticks(ax.yaxis)
    assert labels(ax.yaxis) == expected


def test_log_bayes_factors_are_linear_around_zero_and_logarithmic_outside(ax):
    ax.plot([1, 2], [-300.0, 40.0])
    scales.nats(ax)
    minus = "\N{MINUS SIGN}"
    assert labels(ax.yaxis) == [f"{minus}100", f"{minus}10", f"{minus}1", "0", "1", "10"]
    assert ax.yaxis.get_transform().linthresh == 1
    low, high = ax.get_ylim()
    assert low < -300 and high > 40


def test_large_log_bayes_factors_have_a_wider_linear_range(ax):
    ax.plot([1, 2], [-130_000.0, 8000.0])
    scales.nats(ax)
    assert ax.yaxis.get_transform().linthresh == 1000
    assert len(labels(ax.yaxis)) <= 9


def test_missing_and_infinite_values_do_not_change_the_scale(ax):
    ax.plot([1, 2, 3], [np.nan, -np.inf, 5.0])
    scales.nats(ax)
    assert ax.yaxis.get_transform().linthresh == 1 and np.isfinite(ax.get_ylim()).all()


@pytest.mark.parametrize(("shares", "expected"), [
    ([], True), ([0.5], True), ([0.1, 0.101], True), ([0.0, 0.0005], True),
    ([0.1, 0.11], False), ([0.01, 0.02], False),
])  # fmt: skip
def test_shares_are_uniform_up_to_rounding(shares, expected):
    assert is_uniform(shares) is expected


def test_binomial_intervals_are_those_of_wilson():
    p, n, z = np.array([0.5, 0.97, 1.0]), np.array([10, 1000, 3]), stats.norm.ppf(0.975)
    middle, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    expected = np.array([middle - half, middle + half]) / (1 + z**2 / n)
    np.testing.assert_allclose(scales.binomial_interval(p, n), expected)


def test_the_interval_of_one_seed_is_binomial_and_of_several_that_of_t():
    (low,), (high,) = scales.binomial_interval([0.9], [500])
    assert scales.score_interval([0.9], 500) == (low, high)
    values = [0.90, 0.91, 0.95]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    np.testing.assert_allclose(scales.score_interval(values, 500), expected)
    assert scales.score_interval([0.90, 0.99], 500, highest=1.0)[1] == 1.0
    for values, examples in (([0.9], None), ([0.9, 0.9], 500)):
        assert np.isnan(scales.score_interval(values, examples)).all()
