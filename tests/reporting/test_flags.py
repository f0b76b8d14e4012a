"""The problems of a run raise flags."""

import pytest
from helpers.made_up_runs import a_run

from pyro_bayesprune.experiments.loading import Run
from pyro_bayesprune.reporting import flags


def words(runs):
    return " ".join(f"{flag.level} {flag.text}" for flag in flags.flags(runs))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"collapsed_layers": ["fc1.weight"]}, "bad All weights of fc1.weight are zero"),
        ({"test_accuracy": 0.11}, "bad Test accuracy 11.0% is close to guessing"),
        ({"achieved_sparsity": 0.7}, "warning The sparsity is 70.0%. The target was 90.0%"),
        ({"test_ece": 0.2}, "warning The confidence is wrong by 0.200"),
        ({}, "warning The prior alone determined the decisions of epochs 1."),
        ({}, "warning This report has no dense control"),
        ({}, "1 of 1 settings have fewer than 3 seeds"),
    ],
)
def test_flags_are_raised(changes, expected):
    assert expected in words([a_run(**changes)])


@pytest.mark.parametrize(
    ("accuracy", "classes", "is_guess"),
    [(0.51, 2, True), (0.74, 2, False), (0.35, 3, True), (0.45, 3, False), (0.014, 100, True)],
)
def test_only_an_accuracy_near_that_of_guesses_is_called_guessing(accuracy, classes, is_guess):
    text = words([a_run(test_accuracy=accuracy, num_classes=classes)])
    assert ("close to guessing" in text) == is_guess


def test_diagnostics_raise_flags():
    diagnostics = {
        "convergence": {"rhat_log_joint": 1.2, "ess_log_joint": 50, "divergences": 2},
        "loo": {"pareto": [{"share": 0.5}, {"share": 0.3}, {"share": 0.2}]},
    }
    scaling = ["possible prior-data conflict"] * 2 + ["-", "prior strong, data weak"]
    diagnostics["power_scaling"] = [{"diagnosis": diagnosis} for diagnosis in scaling]
    run = a_run()
    run = Run(run.settings, run.metrics, run.history, analysis={"diagnostics": diagnostics})
    text = words([run])
    for part in (
        "warning Power scaling: 2 of 4 quantities", "note Power scaling: 1 of 4 quantities",
        "The chains disagree", "2 NUTS transitions diverged", "Pareto k is above 0.7",
    ):  # fmt: skip
        assert part in text


def test_draws_that_predict_worse_than_the_map_raise_a_flag():
    scores = [{"network": "MAP", "nll": 0.1}, {"network": "mean over draws", "nll": 0.7}]
    run = a_run()
    run = Run(run.settings, run.metrics, run.history, analysis={"scores": scores})
    assert "The mean over draws predicts worse than the MAP" in words([run])


def test_a_loss_of_accuracy_against_the_control_raises_a_flag():
    runs = [a_run(sparsity=0.0, test_accuracy=0.99), a_run(test_accuracy=0.9)]
    assert "bad The accuracy is 9.00 points lower than that of the dense control" in words(runs)


def test_flags_of_the_same_problem_are_one_group():
    runs = [a_run(seed=seed, test_ece=0.1 + seed) for seed in range(4)]
    groups = flags.grouped(flags.flags(runs))
    assert [group[0].name for group in groups].count("calibration") == 1
    assert len(next(group for group in groups if group[0].name == "calibration")) == 4


def test_runs_that_differ_in_a_setting_are_no_repetitions_of_each_other():
    runs = [a_run(prior_scale=scale) for scale in (0.1, 0.3, 1.0)]
    assert "3 of 3 settings have fewer than 3 seeds" in words(runs)


def test_a_smaller_network_is_no_control():
    pruned, small = a_run(), a_run(sparsity=0.0, hidden=[20, 20, 20], test_accuracy=0.99)
    assert flags.control(pruned, [pruned, small]) is None
    same = a_run(sparsity=0.0)
    assert flags.control(pruned, [pruned, small, same]) is same
