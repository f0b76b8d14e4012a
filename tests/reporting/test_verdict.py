"""A clean run with its control is found good."""

from helpers.made_up_runs import a_run

from pyro_bayesprune.experiments.loading import Run
from pyro_bayesprune.reporting import flags, verdict


def test_a_clean_run_with_its_control_is_found_good():
    runs = [a_run(seed=s, sparsity=p) for s in range(3) for p in (0.0, 0.9)]
    runs = [Run(r.settings, r.metrics, r.history.assign(prior_decides=False)) for r in runs]
    assert verdict.verdict(runs, flags.flags(runs)).level == "good"
