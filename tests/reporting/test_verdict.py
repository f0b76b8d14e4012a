"""The verdict on a run without problems."""

from helpers.made_up_runs import a_run

from pyro_bayesprune.experiments.loading import Run
from pyro_bayesprune.reporting import flags, verdict


def test_a_run_without_problems_is_good():
    runs = [a_run(seed=s, sparsity=p) for s in range(3) for p in (0.0, 0.9)]
    runs = [Run(r.settings, r.metrics, r.history.assign(prior_decides=False)) for r in runs]
    assert verdict.verdict(runs, flags.flags(runs)).level == "good"
