"""Runs are distinguished by the settings in which they differ."""

import pytest
from helpers.made_up_runs import a_run

from pyro_bayesprune.experiments.config import configure
from pyro_bayesprune.experiments.loading import Run
from pyro_bayesprune.experiments.titles import distinguished


def titles(*runs):
    return [run.title for run in distinguished(runs)]


def of(*args, **settings):
    config = configure(*args, **settings)
    return a_run(**config.to_dict(), method=config.method)


def test_one_run_keeps_its_title():
    assert titles(a_run()) == ["digits fcn custom 0.9, seed 0"]


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([of(prior_scale=1.0), of(prior_scale=0.3)], ["prior scale 0.3", "prior scale 1.0"]),
        ([of(sparsity="auto"), of(), of(sparsity=0.0)], ["dense", "sparsity 0.9", "sparsity auto"]),
        ([of(seed=10), of(seed=2)], ["seed 2", "seed 10"]),
        ([of(gate="previous"), of()], ["gate previous", "gate retain"]),
        (
            [of("paper", "magnitude", sparsity=0.5), of("paper", "unpruned")],
            ["magnitude, sparsity 0.5", "unpruned, dense"],
        ),
        (
            [of(dataset="mnist", hidden=(8,)), of(dataset="digits", hidden=(9,))],
            ["digits, hidden [9]", "mnist, hidden [8]"],
        ),
    ],
)
def test_titles_are_the_settings_that_differ(runs, expected):
    assert titles(*runs) == expected


def test_settings_of_pruning_do_not_describe_a_dense_run():
    assert titles(of(sparsity=0.0, beta=0.5), of(beta=0.9)) == ["dense", "sparsity 0.9"]


def test_equal_runs_are_told_apart_and_none_is_lost():
    runs = [a_run(id="aa"), a_run(id="bb"), a_run(id="bb")]
    found = titles(*runs)
    assert found[0] == "run (aa)" and len(set(found)) == 3


def test_runs_that_cannot_be_read_have_titles():
    broken = Run({}, {}, a_run().history, error="damaged")
    assert len(set(titles(broken, broken, a_run()))) == 3
