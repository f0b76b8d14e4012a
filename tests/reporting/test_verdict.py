"""The verdict is one sentence about problems, zeros, and the loss against the dense control."""

import pytest
from helpers.made_up_runs import a_run

from pyro_bayesprune.experiments.loading import Run
from pyro_bayesprune.reporting import flags, verdict


def judged(*runs):
    return verdict.verdict(runs, flags.flags(runs))


def test_a_run_without_problems_is_good():
    runs = [a_run(seed=s, sparsity=p) for s in range(3) for p in (0.0, 0.9)]
    runs = [Run(r.settings, r.metrics, r.history.assign(prior_decides=False)) for r in runs]
    found = judged(*runs)
    assert found.level == "good" and found.headline == (
        "No problem was found: 90.0% of the prunable weights are zero, and the test accuracy is "
        "not lower than without pruning."
    )


@pytest.mark.parametrize(
    ("runs", "headline"),
    [
        ([a_run()], "Usable, with reservations (3 problems): 90.0% of the prunable weights are "
         "zero, but there is no dense control to compare with."),
        ([a_run(), a_run(sparsity=0.0, test_accuracy=0.97)], "Usable, with reservations (3 "
         "problems): 90.0% of the prunable weights are zero, and the test accuracy is 2.00 points "
         "lower than without pruning."),
        ([a_run(test_accuracy=0.1)], "Do not rely on it yet (1 serious problem): 90.0% of the "
         "prunable weights are zero, but there is no dense control to compare with."),
        ([a_run(sparsity=0.0)], "Usable, with reservations (2 problems): nothing was pruned."),
        ([], "There is no finished run to judge. See the failed runs below."),
    ],
)  # fmt: skip
def test_the_headline(runs, headline):
    assert judged(*runs).headline == headline


def test_a_control_with_the_same_prior_is_preferred():
    near, far = (
        a_run(sparsity=0.0, prior_scale=s, test_accuracy=a) for s, a in ((1, 0.96), (2, 0.99))
    )
    run = a_run(prior_scale=1)
    assert flags.control(run, [far, near, run]) is near
