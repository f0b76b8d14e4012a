"""Table 1 from hand-made results."""

import numpy as np
import pandas as pd
import pytest
from helpers.made_up_runs import table_runs

from pyro_bayesprune.paper import table as tables


def row(table, method, sparsity):
    rows = table[(table["method"] == method) & (table["sparsity"] == sparsity)]
    assert len(rows) == 1
    return rows.iloc[0]


def test_the_package_contains_the_papers_numbers():
    table = tables.paper_table1()
    assert len(table) == 3 * 2 * (1 + 4 * 5)
    assert not table.duplicated(["dataset", "network", "method", "sparsity"]).any()


def test_a_cell_of_table1_by_hand():
    table = tables.table1(table_runs("mnist", "magnitude", 0.9, [0.96, 0.97, 0.98]))
    cell = row(table, "magnitude", 0.9)
    assert cell["mean"] == pytest.approx(0.97) and cell["std"] == pytest.approx(0.01)
    assert cell["high"] - cell["mean"] == pytest.approx(4.302652729911275 * 0.01 / np.sqrt(3))
    assert cell["paper"] == 0.9768
    assert cell["difference"] == pytest.approx(-0.0068)
    assert (cell["seeds"], cell["achieved_sparsity"], cell["outside"]) == (3, 0.9, False)
    assert len(table) == 21  # the paper's other cells of this network are there, without ours
    assert row(table, "random", 0.9)["seeds"] == 0


@pytest.mark.parametrize(
    ("accuracies", "outside"),
    [
        ([0.9600, 0.9601, 0.9602], True),  # well below the paper's 0.9768
        ([0.9900, 0.9901, 0.9902], True),
        ([0.9600, 0.9601], False),  # two seeds mark nothing
        ([0.9768, 0.9768, 0.9768], False),
        ([0.97684, 0.97684, 0.97684], False),  # what the paper would print as 0.9768
        ([0.97686, 0.97686, 0.97686], False),  # equal values allow no interval
    ],
)
def test_a_cell_is_marked_where_the_papers_mean_lies_outside(accuracies, outside):
    table = tables.table1(table_runs("mnist", "magnitude", 0.9, accuracies))
    assert row(table, "magnitude", 0.9)["outside"] == outside
    assert (tables.MARK in tables.markdown(table)) == outside


def test_rows_have_the_papers_order():
    results = pd.concat(
        table_runs(d, "magnitude", 0.9, [0.9]) for d in ("digits", "cifar10", "mnist")
    )
    table = tables.table1(results)
    assert list(table["dataset"].unique()) == ["mnist", "cifar10", "digits"]


def test_the_markdown_has_ours_the_papers_and_the_difference():
    results = pd.concat(
        [
            table_runs("mnist", "magnitude", 0.9, [0.96, 0.97, 0.98]),
            table_runs("mnist", "unpruned", 0, [0.98]),
        ]
    )
    text = tables.markdown(tables.table1(results), tables.notes(results))
    lines = text.splitlines()
    assert lines[0].startswith("| dataset | network | sparsity | unpruned | Bayes unpruned |")
    assert "| mnist | FCN | 90% |" in text
    assert "0.9700 ± 0.0100<br>paper 0.9768 (-0.0068)" in text
    assert text.count("0.9800<br>paper 0.9782 (+0.0018)") == 1  # in its first row alone
    assert "–<br>paper 0.9657" in text
    assert "hidden [1024, 1024, 1024]" in text and "prior_scale 1.0" in text
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


def test_the_other_formats(tmp_path):
    table = tables.table1(table_runs("mnist", "magnitude", 0.9, [0.99, 0.9901, 0.9902]))
    text = tables.as_html(table, ["a < b"])
    assert "0.9901 ± 0.0001*<br>paper 0.9768 (+0.0133)" in text and "a &lt; b" in text
    (tmp_path / "t.csv").write_text(tables.csv(table))
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "t.csv"), table, check_dtype=False)


def test_controls_in_the_store_are_left_out():
    both = pd.concat(
        [
            table_runs("mnist", "magnitude", 0.9, [0.9]),
            table_runs("mnist", "magnitude", 0.9, [0.8], regrow=True),
        ]
    )
    assert row(tables.table1(both), "magnitude", 0.9)["mean"] == 0.9


def test_an_ambiguous_selection_of_runs_is_an_error():
    both = pd.concat(table_runs("mnist", "magnitude", 0.9, [0.9], epochs=n) for n in (2, 3))
    with pytest.raises(ValueError, match=r"differ in epochs \(2, 3\)"):
        tables.table1(both)


def test_sparsities_above_99_and_a_half_per_cent_are_not_called_100():
    runs = [table_runs("mnist", "magnitude", level, [0.9]) for level in (0.995, 0.999)]
    text = tables.markdown(tables.table1(pd.concat(runs)))
    assert "| 99.5% |" in text and "| 99.9% |" in text and "100%" not in text
