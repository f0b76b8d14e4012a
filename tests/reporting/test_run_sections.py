"""Tables of runs in the report."""

from dataclasses import replace

import pandas as pd
from helpers.made_up_runs import a_run, history

from pyro_bayesprune.experiments.titles import distinguished
from pyro_bayesprune.reporting import run_sections


def test_means_over_seeds_have_their_sample_standard_deviation():
    runs = [a_run(seed=s, test_accuracy=a) for s, a in enumerate((0.90, 0.92, 0.97))]
    runs = distinguished([*runs, a_run(sparsity=0.0)])
    table, every = run_sections.results_panel(runs).content
    rows = [dict(zip(table.header, row, strict=True)) for row in table.rows]
    assert [row["seeds"] for row in rows] == ["1", "3"]
    assert [row["accuracy"] for row in rows] == ["0.9500", "0.9300 ± 0.0361"]
    assert every.folded and len(every.rows) == 4
    assert len(run_sections.results_panel(runs[:1]).content) == 1


def test_epochs_without_a_step_are_folded_away():
    run, quiet = a_run(), history().iloc[[1]].loc[lambda h: h.index.repeat(20)]
    run = replace(run, history=pd.concat([history(), quiet]))
    steps, every = run_sections.decisions_panel([run]).content
    assert len(steps.rows) == 1 and not steps.folded
    assert len(every.rows) == 22 and every.folded


def test_decisions_by_evidence_have_an_occam_part_and_their_own_words():
    run = a_run(sparsity="auto")
    run = replace(run, history=run.history.assign(kind="laplace", log_occam_ratio=[9.0, 0.0]))
    panel = run_sections.decisions_panel([run])
    assert "Occam part" in panel.content[0].header
    assert "log evidence" in panel.note and "joint densities" not in panel.note
    joint = run_sections.decisions_panel([a_run()])
    assert "not of marginal likelihoods" in joint.note
    assert "Occam part" not in joint.content[0].header


def test_runs_whose_sparsity_is_no_number_are_in_the_figure_of_compression():
    runs = distinguished([a_run(sparsity="auto", compression_ratio=5.0), a_run()])
    (picture,) = run_sections.compression_pictures(runs)
    column = picture.table.header.index("sparsity")
    assert [row[column] for row in picture.table.rows] == ["0.9", "auto"]


def test_runs_of_equal_compression_have_no_figure_of_it():
    assert run_sections.compression_pictures(distinguished([a_run(), a_run(prior_scale=1.0)])) == []


def test_equal_sparsities_of_the_layers_are_a_folded_table_without_a_figure():
    panel = run_sections.layers_panel([a_run(layer_sparsity={"fc1": 0.9, "fc2": 0.9001})])
    (table,) = panel.content
    assert table.folded and table.caption == "All layers have the same share of surviving weights"


def test_runs_of_a_method_with_other_settings_are_lines_of_their_own():
    runs = [a_run(method="magnitude", epochs=n, seed=s) for n in (2, 5) for s in (0, 1)]
    runs += [a_run(method="unpruned", sparsity=0.0, compression_ratio=1.0)]
    (picture,) = run_sections.compression_pictures(distinguished(runs))
    lines = [row[-1] for row in picture.table.rows]
    assert sorted(set(lines)) == ["magnitude, epochs 2", "magnitude, epochs 5", "unpruned"]


def test_a_gate_that_accepts_every_step_has_no_threshold():
    for gate, is_gated in (("always", False), ("retain", True)):
        tables = run_sections.decisions_panel([a_run(gate=gate)]).content
        assert all(("threshold" in table.header) == is_gated for table in tables)
