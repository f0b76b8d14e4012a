"""Tables of runs in the report."""

import pandas as pd
from helpers.made_up_runs import a_run, history

from pyro_bayesprune.experiments.loading import Run
from pyro_bayesprune.reporting import run_sections


def test_means_over_seeds_have_their_sample_standard_deviation():
    runs = [a_run(seed=s, test_accuracy=a) for s, a in enumerate((0.90, 0.92, 0.97))]
    table = run_sections.results_panel([*runs, a_run(sparsity=0.0)]).content[1]
    rows = [dict(zip(table.header, row, strict=True)) for row in table.rows]
    assert [row["seeds"] for row in rows] == ["3", "1"]
    assert [row["accuracy"] for row in rows] == ["0.9300 ± 0.0361", "0.9500"]
    assert len(run_sections.results_panel(runs[:1]).content) == 1


def test_epochs_without_a_step_are_folded_away():
    run, quiet = a_run(), history().iloc[[1]].loc[lambda h: h.index.repeat(20)]
    run = Run(run.settings, run.metrics, pd.concat([history(), quiet]))
    steps, every = run_sections.decisions_panel([run]).content
    assert len(steps.rows) == 1 and not steps.folded
    assert len(every.rows) == 22 and every.folded
    assert len(run_sections.decisions_panel([a_run()]).content) == 1
