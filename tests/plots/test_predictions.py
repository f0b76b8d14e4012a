"""Every plot returns its Figure, takes ``ax`` where it has one axes, and draws its table."""

import inspect

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from helpers import drawn
from matplotlib.figure import Figure
from scipy.stats import binomtest

from pyro_bayesprune.plots import methods, predictions, training

histories = pd.DataFrame({
    "method": ["unpruned", "magnitude"] * 2, "level": [0.0, 0.5] * 2, "epoch": [1, 1, 2, 2],
    "train_loss": [1.0, 1.1, 0.5, 0.6], "test_loss": [1.2, 1.3, 0.6, 0.7], "sparsity": [0, 0.5] * 2,
    "sparsity/fc1.weight": [0, 0.5] * 2, "decision": ["pruned"] * 4,
    "compression_ratio": [1, 2] * 2,
    "test_accuracy": [0.9, 0.8] * 2, "bf_per_datum": [1.0, 0.9, 1.0, 1.0],
    "twin_bf_per_datum": [1.0, 0.9, 1.0, 0.95], "log_threshold": [-5.0] * 4,
} | {f"{twin}{part}": [0.0, -3.0, 0.0, -2.0] for twin in ("", "twin_")
     for part in ("log_bf", "log_likelihood_ratio", "log_prior_ratio")})  # fmt: skip
layers = pd.DataFrame({"layer": ["fc1", "fc2"], "kept": [0.01, 0.5]})
networks = pd.DataFrame({
    "network": ["MAP", "MAP"], "confidence": [0.3, 0.9], "accuracy": [0.4, 0.8],
    "rejected": [0, 0.5],
    "shift": ["rotation", "rotation"], "amount": [0.0, 30.0], "entropy": [0.1, 0.9],
    "sparsity": [0.0, 0.9], "ece": [0.1, 0.05],
})  # fmt: skip
numbers = pd.DataFrame({
    "network": ["MAP", "MAP"], "from": [0.0, 0.5], "to": [0.5, 1.0], "share": [0.4, 0.6],
    "probability": [0.5, 0.9], "coverage": [0.4, 0.8],
})  # fmt: skip
chains = pd.DataFrame({"chain": [0] * 20 + [1] * 20, "draw": [*range(20)] * 2, "value": range(40)})
classes = pd.DataFrame({"class": [0, 1], "observed": [0.5, 0.5], "posterior": [0.4, 0.6]})

FRAMES = {
    "sparsity_by_layer": layers, "reliability": networks, "rejection": networks, "shifts": networks,
    "pit": numbers, "coverage": numbers,
    "traces": chains, "class_frequencies": classes, "calibration_by_sparsity": networks,
}  # fmt: skip
PLOTS = {
    name: function
    for module in (training, methods, predictions)
    for name, function in vars(module).items()
    if inspect.isfunction(function)
    and not name.startswith("_")
    and inspect.signature(function).return_annotation is Figure
}


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_returns_its_figure_and_accepts_axes_if_it_has_one(name):
    draw, frame = PLOTS[name], FRAMES.get(name, histories)
    figure = draw(frame)
    assert isinstance(figure, Figure) and figure.axes
    if "ax" not in inspect.signature(draw).parameters:
        assert len(figure.axes) > 1
        return
    assert len(figure.axes) == 1
    mine, (left, right) = plt.subplots(1, 2)
    assert draw(frame, ax=right) is mine
    assert right.has_data() and not left.has_data()
    plt.close(mine)


def test_reliability_draws_the_table_and_the_diagonal():
    (ax,) = PLOTS["reliability"](networks).axes
    lines = drawn(ax)
    np.testing.assert_array_equal(lines["MAP"].T, networks[["confidence", "accuracy"]])
    np.testing.assert_array_equal(lines["calibrated"], [[0, 1], [0, 1]])


def test_reliability_is_square_with_counts_and_binomial_intervals():
    one = pd.DataFrame({"confidence": [0.2, 0.9], "accuracy": [0.5, 0.75], "examples": [10, 4000]})
    # concatenated tables have a repeated index
    both = pd.concat([one.assign(network="a"), one.assign(network="b", accuracy=[0.0, 1.0])])
    figure = predictions.reliability(both)
    (ax,) = figure.axes
    expected = [binomtest(k, n).proportion_ci(method="wilson") for k, n in [(5, 10), (3000, 4000)]]
    bars, _ = ax.collections
    np.testing.assert_allclose([bar[:, 1] for bar in bars.get_segments()], expected)
    np.testing.assert_array_equal([bar[0, 0] for bar in bars.get_segments()], [0.2, 0.9])
    (strip,) = ax.child_axes
    np.testing.assert_array_equal(drawn(strip)["b"], [[0.2, 0.9], [10, 4000]])
    assert strip.get_yscale() == "log" and strip.get_xlim() == ax.get_xlim()
    figure.draw_without_rendering()
    box = ax.get_window_extent()
    assert box.width == pytest.approx(box.height)
    assert [text.get_text() for text in strip.get_yticklabels()] == ["10", "100", "1,000"]
    assert figure.bbox.padded(1).containsy(ax.get_legend().get_window_extent().y1)
    assert figure.bbox.padded(1).containsy(ax.xaxis.label.get_window_extent().y0)


def test_the_layers_are_dots_on_a_linear_axis_with_their_shares():
    table = layers.assign(**{"dead units": [2, np.nan]})
    figure = predictions.sparsity_by_layer(table.assign(layer=["fc1.weight", "fc2.weight"]))
    (ax,) = figure.axes
    (dots,) = ax.get_lines()
    assert dots.get_xdata().tolist() == [0.01, 0.5] and dots.get_linestyle() == "None"
    assert ax.get_xscale() == "linear" and ax.get_xlim()[0] == 0
    figure.draw_without_rendering()
    assert [text.get_text() for text in ax.get_yticklabels()] == ["fc1", "fc2"]
    assert [text.get_text() for text in ax.texts] == ["1.00%, 2 dead units", "50.00%"]
    assert all(ax.bbox.contains(*text.get_window_extent().max) for text in ax.texts)


def test_a_network_without_surviving_weights_has_dots_at_zero():
    (ax,) = predictions.sparsity_by_layer(layers.assign(kept=0.0)).axes
    assert ax.get_lines()[0].get_xdata().tolist() == [0, 0] and ax.get_xlim() == (0, 1)


def test_shifts_have_intervals_and_at_least_the_range_of_the_test_set():
    table = pd.DataFrame({"network": "MAP", "shift": "noise", "amount": [0.0, 1.0],
                          "accuracy": [0.9, 0.9], "entropy": [0.1, 0.2]})  # fmt: skip
    ax = predictions.shifts(table, num_test=50).axes[0]
    low, high = binomtest(45, 50).proportion_ci(method="wilson")
    bar = ax.collections[0].get_segments()[1]
    np.testing.assert_allclose(bar, [[1, low], [1, high]])
    assert ax.get_ylim()[0] <= low and ax.get_ylim()[1] >= high
    assert not predictions.shifts(table).axes[0].collections


def test_rejection_has_binomial_intervals_of_the_remaining_examples():
    table = networks.assign(examples=[100, 50])
    (bars,) = predictions.rejection(table).axes[0].collections
    low, high = binomtest(40, 50).proportion_ci(method="wilson")
    np.testing.assert_allclose(bars.get_segments()[1], [[0.5, low], [0.5, high]])


def test_traces_draw_values_in_order_and_their_ranks():
    left, right = predictions.traces(chains).axes
    assert [list(line.get_ydata()) for line in left.lines] == [[*range(20)], [*range(20, 40)]]
    counts = [patch.get_data().values for patch in right.patches]
    np.testing.assert_array_equal(np.sum(counts, 0), [3, *[4] * 8, 5])


def test_the_pit_and_the_coverage_of_networks():
    table = pd.DataFrame({"network": "MAP", "from": [0.0, 0.5], "to": [0.5, 1.0],
                          "share": [0.4, 0.6]})  # fmt: skip
    (ax,) = predictions.pit(table).axes
    assert ax.get_xlim() == (0, 1) and len(ax.patches) == 1
    assert ax.get_lines()[0].get_ydata()[0] == 0.5
    table = pd.DataFrame({"network": "MAP", "probability": [0.1, 0.9], "coverage": [0.2, 0.8]})
    (ax,) = predictions.coverage(table).axes
    assert ax.get_lines()[0].get_ydata().tolist() == [0.2, 0.8]
