"""Every plot returns its Figure, takes ``ax`` where it has one axes, and draws its table."""

import inspect

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from pyro_bayesprune.plots import methods, predictions, training

SEVERAL = {"by_method"}  # of other plots

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
    and name not in SEVERAL
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
    lines = {
        line.get_label(): line.get_xydata() for line in PLOTS["reliability"](networks).axes[0].lines
    }
    np.testing.assert_array_equal(lines["MAP"], networks[["confidence", "accuracy"]])
    np.testing.assert_array_equal(lines["calibrated"], [[0, 0], [1, 1]])


def test_traces_draw_values_in_order_and_their_ranks():
    left, right = predictions.traces(chains).axes
    assert [list(line.get_ydata()) for line in left.lines] == [[*range(20)], [*range(20, 40)]]
    counts = [patch.get_data().values for patch in right.patches]
    np.testing.assert_array_equal(np.sum(counts, 0), [3, *[4] * 8, 5])


def test_concatenated_tables_of_networks_with_a_repeated_index():
    one = pd.DataFrame({"confidence": [0.2, 0.9], "accuracy": [0.3, 0.8], "examples": [1, 4]})
    both = pd.concat([one.assign(network="a"), one.assign(network="b")])
    axes = predictions.reliability(both).axes[0]
    areas = [points.get_sizes().tolist() for points in axes.collections]
    assert areas == [[9 + 150 / 4, 159]] * 2


def test_the_pit_and_the_coverage_of_networks():
    table = pd.DataFrame({"network": "MAP", "from": [0.0, 0.5], "to": [0.5, 1.0],
                          "share": [0.4, 0.6]})  # fmt: skip
    (ax,) = predictions.pit(table).axes
    assert ax.get_xlim() == (0, 1) and len(ax.patches) == 1
    assert ax.get_lines()[0].get_ydata()[0] == 0.5
    table = pd.DataFrame({"network": "MAP", "probability": [0.1, 0.9], "coverage": [0.2, 0.8]})
    (ax,) = predictions.coverage(table).axes
    assert ax.get_lines()[0].get_ydata().tolist() == [0.2, 0.8]
