"""The learning curves, tested on the data that they draw."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from helpers import drawn

from pyro_bayesprune.plots import training


@pytest.fixture
def history():
    return pd.DataFrame(
        {
            "epoch": [1, 2, 3, 4],
            "train_loss": [2.0, 1.0, 0.5, 0.25],
            "validation_loss": [2.1, 1.2, 0.9, 0.8],
            "log_bf": [-10.0, -300.0, 4.0, 0.0],
            "decision": ["pruned", "refused", "pruned", "unchanged"],
            "log_threshold": [-50.0, -60.0, -70.0, np.nan],
            "sparsity": [0.25, 0.25, 0.5, 0.5],
        }
    )


@pytest.fixture
def runs(history):
    def make(count):
        names = [f"run {number}" for number in range(count)]
        return pd.concat(history.assign(run=n, sparsity=i / 20) for i, n in enumerate(names))

    return make


def handles(axes):
    return {handle.get_label(): handle for handle in axes.get_legend().legend_handles}


def test_losses_are_on_a_logarithmic_axis_with_plain_ticks(history):
    figure = training.learning_curves(history)
    loss = figure.axes[0]
    for name in ("train", "validation"):
        np.testing.assert_array_equal(
            drawn(loss)[name], [history["epoch"], history[f"{name}_loss"]]
        )
    figure.draw_without_rendering()
    labels = [t.get_text() for t in loss.get_yticklabels()]
    assert loss.get_yscale() == "log" and labels == ["0.5", "1", "2"]
    assert set(handles(loss)) == {"train", "validation"}


def test_losses_below_zero_are_on_a_linear_axis(history):
    loss = training.learning_curves(history.assign(train_loss=-1.0)).axes[0]
    assert loss.get_yscale() == "linear"


def test_the_marker_of_a_step_shows_its_decision(history):
    factor = training.learning_curves(history).axes[1]
    lines = {line.get_label(): line for line in factor.get_lines()}
    np.testing.assert_array_equal(lines["pruned"].get_xydata(), [[1, -10], [3, 4]])
    np.testing.assert_array_equal(lines["refused"].get_xydata(), [[2, -300]])
    assert lines["pruned"].get_marker() != lines["refused"].get_marker()
    assert set(handles(factor)) == {"pruned", "refused", "threshold"}


def test_nothing_is_drawn_where_nothing_was_pruned(history):
    factor = training.learning_curves(history).axes[1]
    assert not any(4 in line.get_xdata() for line in factor.get_lines() if line.get_marker() != "")
    np.testing.assert_array_equal(drawn(factor)["log Bayes factor"][1], [-10, -300, 4, np.nan])
    dense = history.assign(decision="unchanged", log_bf=0.0)
    factor = training.learning_curves(dense).axes[1]
    assert factor.get_title("left") == "Pruning steps (none)"
    assert not {"log Bayes factor", "pruned", "threshold"} & set(drawn(factor))


def test_the_threshold_is_a_dashed_line_over_the_epochs_that_have_one(history):
    factor = training.learning_curves(history).axes[1]
    (line,) = [line for line in factor.get_lines() if line.get_label() == "threshold"]
    assert line.get_linestyle() == "--"
    epochs, values = line.get_data()
    np.testing.assert_array_equal(epochs, [0.5, 1.5, 1.5, 2.5, 2.5, 3.5, 3.5, 4.5])
    np.testing.assert_array_equal(values, np.repeat([-50, -60, -70, np.nan], 2))


@pytest.mark.parametrize("change", [
    {"log_threshold": -np.inf}, {"log_threshold": np.nan}, {"method": "magnitude"},
])  # fmt: skip
def test_without_a_threshold_that_decides_there_is_no_line(history, change):
    factor = training.learning_curves(history.assign(**change)).axes[1]
    assert "threshold" not in drawn(factor) and "threshold" not in handles(factor)


def test_the_sparsity_has_its_own_strip(history):
    figure = training.learning_curves(history)
    loss, factor, sparsity = figure.axes
    np.testing.assert_array_equal(
        drawn(sparsity)["sparsity"], [history["epoch"], history["sparsity"]]
    )
    assert sparsity.get_title("left") == "Sparsity, 50.00% at the end"
    limits = {tuple(ax.get_xlim()) for ax in figure.axes}
    boxes = [ax.get_position() for ax in figure.axes]
    assert limits == {(0.4, 4.6)} and boxes[0].y0 > boxes[1].y1 > boxes[2].y1


def test_no_legend_covers_data(history, runs):
    for frame in (history, runs(4)):
        figure = training.learning_curves(frame)
        figure.draw_without_rendering()
        legends = [ax.get_legend() for ax in figure.axes if ax.get_legend()] + figure.legends
        assert legends
        for legend in legends:
            box = legend.get_window_extent()
            assert not any(box.overlaps(ax.bbox.padded(-1)) for ax in figure.axes)
            assert figure.bbox.padded(1).contains(*box.min)
            assert figure.bbox.padded(1).contains(*box.max)


def test_runs_are_drawn_over_each_other_in_their_own_looks(runs):
    figure = training.learning_curves(runs(12))
    loss, factor, sparsity = figure.axes
    lines = loss.get_lines()
    assert [line.get_label() for line in lines] == [f"run {number}" for number in range(12)]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 12
    colours = {line.get_label(): line.get_color() for line in lines}
    for number in (0, 7):
        assert drawn(sparsity)[f"run {number}"][1].tolist() == [number / 20] * 4
    steps = [line for line in factor.get_lines() if line.get_label() == "refused"]
    assert [line.get_color() for line in steps] == list(colours.values())
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(colours)


def test_more_than_twelve_runs_are_thin_grey_lines_without_names(runs):
    figure = training.learning_curves(runs(13))
    lines = figure.axes[0].get_lines()
    assert len(lines) == 13 and not figure.legends
    assert {(line.get_color(), line.get_linewidth()) for line in lines} == {("darkgray", 0.8)}


def test_runs_are_compared_by_the_loss_that_all_of_them_have(runs):
    frame = runs(2)
    loss = training.learning_curves(frame).axes[0]
    assert loss.get_title("left") == "Loss (validation), 2 runs"
    frame.loc[frame["run"] == "run 1", "validation_loss"] = np.nan
    loss = training.learning_curves(frame).axes[0]
    assert loss.get_title("left") == "Loss (train), 2 runs"
    assert drawn(loss)["run 1"][1].tolist() == [2.0, 1.0, 0.5, 0.25]


def test_one_run_with_a_name_is_drawn_as_one_without(history):
    figure = training.learning_curves(history.assign(run="mine"))
    assert list(drawn(figure.axes[0])) == ["train", "validation"]


def test_a_run_without_validation_data_has_one_loss(history):
    left, *_ = training.learning_curves(history.assign(validation_loss=np.nan)).axes
    assert list(drawn(left)) == ["train"]


def test_the_figure_is_not_shown_and_not_registered_in_pyplot(history, monkeypatch):
    monkeypatch.setattr(plt, "show", lambda *_, **__: pytest.fail("plt.show was called"))
    before = dict(plt.rcParams)
    training.learning_curves(history)
    assert not plt.get_fignums()
    assert dict(plt.rcParams) == before


def test_the_figure_can_be_written(history, tmp_path):
    training.learning_curves(history).savefig(tmp_path / "curves.svg")
    assert "log Bayes factor (nats)" in (tmp_path / "curves.svg").read_text()


def test_a_missing_column_is_named(history):
    with pytest.raises(ValueError, match="log_bf"):
        training.learning_curves(history.drop(columns="log_bf"))


def test_a_layer_that_is_pruned_more_is_visible(history):
    layers = {"sparsity/a.weight": [0.1] * 4, "sparsity/b.weight": [0.2, 0.4, 0.6, 0.8]}
    (ax,) = training.layer_sparsity(history.assign(**layers)).axes
    assert drawn(ax)["b"][1].tolist() == layers["sparsity/b.weight"]
    assert set(drawn(ax)) == {"a", "b", "all"}


def test_the_drawn_parts_add_up(history):
    parts = {"log_likelihood_ratio": [-30.0, -310.0, 3.0, 0.0], "log_prior_ratio": [5.0, 6, 1, 0]}
    joint = history.assign(**parts).assign(log_bf=np.add(*parts.values()), log_occam_ratio=0.0)
    assert "Occam factor" not in drawn(training.bayes_factor_parts(joint).axes[0])
    gain = np.array([20.0, 10, 5, 0])
    laplace = joint.assign(log_occam_ratio=gain, log_bf=joint["log_bf"] + gain)
    lines = drawn(training.bayes_factor_parts(laplace).axes[0])
    names = ("likelihood part", "prior part", "Occam factor")
    expected = [-5, -294, 9, np.nan]  # nothing is drawn for the unchanged epoch
    np.testing.assert_allclose(sum(lines[n][1] for n in names), expected)
    np.testing.assert_allclose(lines["log Bayes factor"][1], expected)
