"""Continuing from a state, and the rows of the history."""

import copy
import math

import pandas as pd
import pytest
from helpers import assert_same, class_data, mlp, noisy_net
from helpers.trainings import HALF, OPTIMISERS, fresh, same_history, short_fit

import pyro_bayesprune as bp
from pyro_bayesprune.training.state import missed_target


@pytest.mark.parametrize(
    ("make", "prior"),
    [
        (mlp, None),
        (noisy_net, None),
        (noisy_net, bp.priors.layer_scale()),
        (noisy_net, bp.priors.student_t(3.0, 0.3)),
    ],
)
@pytest.mark.parametrize("name", ["fused", "clipped", "momentum", "exponential", "plateau"])
def test_a_continued_fit_is_the_undisturbed_one(make, prior, name):
    data, options = class_data(), {"pruning": HALF, "batch_size": 10, "epochs": 5, "seed": 3}
    whole = short_fit(fresh(make, prior=prior), data, optim=OPTIMISERS[name](), **options)
    training = bp.train(fresh(make, prior=prior), data, optim=OPTIMISERS[name](), **options)
    for state, _ in training:
        if state.epoch == 2:
            break
    model = fresh(make, prior=prior)
    rest = short_fit(model, data, optim=OPTIMISERS[name](), state=copy.deepcopy(state), **options)
    assert_same(rest.weights, whole.weights)
    assert_same(rest.masks, whole.masks)
    assert_same(rest.buffers, whole.buffers)
    assert same_history(rest.history, whole.history[2:])


def test_a_fit_that_is_at_its_end_is_returned_as_it_is():
    first = short_fit(fresh(), class_data())
    again = short_fit(fresh(), class_data(), state=first.state)
    assert_same(first.weights, again.weights)
    assert len(again.history) == 0 and "4 epochs" in repr(again)


def test_the_history_has_a_row_an_epoch_that_adds_up():
    data = class_data()
    result = short_fit(fresh(), data, pruning=bp.Pruning(sparsity=0.5))
    history = result.history
    assert list(history["epoch"]) == [1, 2, 3, 4]
    for _, row in history.iterrows():
        assert row["log_bf"] == pytest.approx(row["log_likelihood_ratio"] + row["log_prior_ratio"])
        assert row["log_joint_after"] == row["log_likelihood_after"] + row["log_prior_after"]
        assert row["bf_per_datum"] == pytest.approx(math.exp(row["log_bf"] / data.num_train))
        if row["decision"] == "pruned":
            difference = row["log_joint_after"] - row["log_joint_before"]
            assert row["log_bf"] == pytest.approx(difference, abs=1e-6)
    last = history.iloc[-1]
    final = bp.log_joint(result.model, result.weights, data)
    assert last["log_joint_after"] == final.total
    assert last["sparsity"] == result.sparsity
    assert last["sparsity/0.weight"] == bp.metrics.sparsity({"w": result.masks["0.weight"]})
    proba = result.predict_proba(data.validation_x)
    assert last["validation_accuracy"] == bp.metrics.accuracy(proba, data.validation_y)


def test_the_prior_is_recorded_where_the_objective_leaves_it_out():
    result = short_fit(fresh(), class_data(), objective="mle", pruning=None)
    expected = bp.log_joint(result.model, result.weights, class_data()).log_prior
    assert result.history["log_prior_before"].iloc[-1] == expected != 0


@pytest.mark.parametrize(
    ("target", "sparsity", "missed"),
    [(0.9, 0.8, 0.9), (0.9, 0.9004, None), (0.9, 0.8996, None), (1.0, 0.5, None), (0.0, 0.5, None)],
)
def test_a_target_that_was_not_reached_is_reported(target, sparsity, missed):
    rows = [{"target": 0.5, "sparsity": 0.1}, {"target": target, "sparsity": sparsity}]
    assert missed_target(pd.DataFrame(rows)) == missed


def test_a_fit_says_that_its_target_was_not_reached():
    data = bp.load_dataset("digits")
    model = bp.BayesianModule(bp.FCN(data.shape, 10, (16,)), bp.priors.normal(0.3), data.num_train)
    pruning = bp.Pruning(sparsity=0.9, gate="propose", beta=1e6)  # refuses every candidate
    fit = bp.fit(model, data, pruning=pruning, epochs=2, progress=False)
    assert fit.sparsity == 0 and "target not reached: 0.9000" in repr(fit)


def test_a_state_does_not_change_in_the_epochs_that_follow():
    pruning = bp.Pruning(sparsity=0.5, gate="always", schedule="constant", update="condition")
    states = bp.train(fresh(), class_data(), epochs=2, pruning=pruning, batch_size=10)
    first, _ = next(states)
    before = {name: weight.clone() for name, weight in first.weights.items()}
    next(states)
    assert_same(first.weights, before)
