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
            "sparsity": [0.25, 0.25, 0.5, 0.5],
        }
    )


def test_losses_are_on_the_left(history):
    left, _, _ = training.learning_curves(history).axes
    lines = drawn(left)
    for name in ("train", "validation"):
        np.testing.assert_array_equal(lines[name], [history["epoch"], history[f"{name}_loss"]])


def test_steps_are_on_the_right(history):
    _, right, share = training.learning_curves(history).axes
    expected = [history["epoch"], history["log_bf"]]
    np.testing.assert_array_equal(drawn(right)["log Bayes factor"], expected)
    expected = [history["epoch"], history["sparsity"]]
    np.testing.assert_array_equal(drawn(share)["sparsity"], expected)


def test_refused_steps_are_marked(history):
    _, right, _ = training.learning_curves(history).axes
    (crosses,) = right.collections
    assert crosses.get_label() == "refused"
    np.testing.assert_array_equal(crosses.get_offsets(), [[2, -300.0]])


def test_without_refused_steps_there_are_no_marks(history):
    _, right, _ = training.learning_curves(history.assign(decision="pruned")).axes
    assert not right.collections


def test_the_legend_contains_all_lines_of_the_right_panel(history):
    *_, share = training.learning_curves(history).axes
    names = [text.get_text() for text in share.get_legend().get_texts()]
    assert names == ["log Bayes factor", "refused", "sparsity"]


def test_curves_differ_in_marker_and_in_colour(history):
    lines = [line for axes in training.learning_curves(history).axes for line in axes.get_lines()]
    assert len({line.get_color() for line in lines}) == 4
    for axes in (lines[:2], lines[2:]):
        assert len({line.get_marker() for line in axes}) == 2


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


def test_the_drawn_parts_add_up(history):
    parts = {"log_likelihood_ratio": [-30.0, -310.0, 3.0, 0.0], "log_prior_ratio": [5.0, 6, 1, 0]}
    joint = history.assign(**parts).assign(log_bf=np.add(*parts.values()), log_occam_ratio=0.0)
    assert "Occam factor" not in drawn(training.bayes_factor_parts(joint).axes[0])
    gain = np.array([20.0, 10, 5, 0])
    laplace = joint.assign(log_occam_ratio=gain, log_bf=joint["log_bf"] + gain)
    lines = drawn(training.bayes_factor_parts(laplace).axes[0])
    names = ("likelihood part", "prior part", "Occam factor")
    np.testing.assert_allclose(sum(lines[n][1] for n in names), lines["log Bayes factor"][1])
