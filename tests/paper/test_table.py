"""Table 1 from hand-made results; which figure is which; figures from a small store."""

import numpy as np
import pandas as pd
import pytest

from pyro_bayesprune.cli import app
from pyro_bayesprune.experiments import statistics
from pyro_bayesprune.experiments.config import configure
from pyro_bayesprune.paper import drawing
from pyro_bayesprune.paper import table as tables

METHODS = ("unpruned", "bayes_unpruned", "random", "magnitude", "bayes_random", "bayes_magnitude")


def run_row(dataset, method, sparsity, seed, accuracy, **settings):
    level = {} if "unpruned" in method else {"sparsity": sparsity}
    config = configure("paper", method, dataset=dataset, seed=seed, **level, **settings)
    values = {k: str(v) if isinstance(v, list) else v for k, v in config.to_dict().items()}
    return values | {
        "id": config.id,
        "method": method,
        "num_train": 100,
        "test_accuracy": accuracy,
        "achieved_sparsity": config.sparsity,
        "compression_ratio": 1 / (1 - config.sparsity),
        "theoretical_speedup": 1.0,
    }


def runs(dataset, method, sparsity, accuracies, **settings):
    rows = [run_row(dataset, method, sparsity, s, a, **settings) for s, a in enumerate(accuracies)]
    return pd.DataFrame(rows)


def row(table, method, sparsity):
    found = table[(table["method"] == method) & (table["sparsity"] == sparsity)]
    assert len(found) == 1
    return found.iloc[0]


def history(run):
    """A made-up history of a run."""
    epochs, pruned = np.arange(1, 4), run["sparsity"] > 0
    likelihood, prior = -100.0 / epochs - 20 * pruned, np.full(3, -10.0 + 5 * pruned)
    return pd.DataFrame(
        {
            "id": run["id"],
            "level": run["sparsity"],
            **{name: run[name] for name in ("dataset", "network", "method", "seed")},
            "epoch": epochs,
            "train_loss": 1 / epochs + 0.1 * run["seed"],
            "validation_loss": np.nan,
            "test_loss": 1.1 / epochs,
            "log_likelihood_after": likelihood,
            "log_prior_after": prior,
            "log_joint_after": likelihood + prior,
            "log_likelihood_ratio": [-20.0 * pruned, 0, 0],
            "log_prior_ratio": [5.0 * pruned, 0, 0],
            "log_bf": [-15.0 * pruned, 0, 0],
            "bf_per_datum": np.exp([-0.15 * pruned, 0, 0]),
            "log_threshold": -10.5,
            "sparsity": run["sparsity"],
            "sparsity/fc1.weight": run["sparsity"],
        }
    )


@pytest.fixture
def store(tmp_path):
    """A store of MNIST at 75% alone, two seeds of each method."""
    results = pd.concat(runs("mnist", method, 0.75, [0.9, 0.92]) for method in METHODS)
    histories = pd.concat(history(run) for _, run in results.iterrows())
    folder = tmp_path / "store"
    folder.mkdir()
    results.to_csv(folder / "results.csv", index=False)
    histories.to_csv(folder / "histories.csv.gz", index=False)
    return folder


def test_the_papers_numbers_travel_with_the_package():
    table = tables.paper_table1()
    assert len(table) == 3 * 2 * (1 + 4 * 5)
    assert not table.duplicated(["dataset", "network", "method", "sparsity"]).any()


def test_figures_have_the_papers_numbers():
    assert drawing.CURVES[4] == ("mnist", "fcn", 0.75)
    assert drawing.CURVES[19] == ("cifar10", "cnn", 0.9)
    assert drawing.CURVES[24] == ("mnist", "fcn", 0.5)
    assert drawing.CURVES[31] == ("mnist", "cnn", 0.99)
    assert drawing.CURVES[32] == ("fashion_mnist", "fcn", 0.25)
    assert drawing.CURVES[51] == ("cifar10", "cnn", 0.99)
    assert drawing.BY_LEVEL[9] == ("mnist", "cnn", "bayes_magnitude")
    assert drawing.BY_LEVEL[20] == ("cifar10", "cnn", "bayes_random")
    assert {*drawing.CURVES} | {*drawing.BY_LEVEL} == {*range(4, 52)}
    assert not {*drawing.CURVES} & {*drawing.BY_LEVEL}


def test_a_cell_of_table1_by_hand():
    table = tables.table1(runs("mnist", "magnitude", 0.9, [0.96, 0.97, 0.98]))
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
        ([0.97686, 0.97686, 0.97686], True),
    ],
)
def test_a_cell_is_marked_where_the_papers_mean_lies_outside(accuracies, outside):
    table = tables.table1(runs("mnist", "magnitude", 0.9, accuracies))
    assert row(table, "magnitude", 0.9)["outside"] == outside
    assert (tables.MARK in tables.markdown(table)) == outside


def test_rows_stand_in_the_papers_order():
    results = pd.concat(runs(d, "magnitude", 0.9, [0.9]) for d in ("digits", "cifar10", "mnist"))
    table = tables.table1(results)
    assert list(table["dataset"].unique()) == ["mnist", "cifar10", "digits"]


def test_the_markdown_has_ours_the_papers_and_the_difference():
    results = pd.concat(
        [runs("mnist", "magnitude", 0.9, [0.96, 0.97, 0.98]), runs("mnist", "unpruned", 0, [0.98])]
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
    table = tables.table1(runs("mnist", "magnitude", 0.9, [0.99, 0.9901, 0.9902]))
    text = tables.as_html(table, ["a < b"])
    assert "0.9901 ± 0.0001*<br>paper 0.9768 (+0.0133)" in text and "a &lt; b" in text
    (tmp_path / "t.csv").write_text(tables.csv(table))
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "t.csv"), table, check_dtype=False)


def test_controls_in_the_store_are_left_out_or_chosen():
    both = pd.concat(
        [
            runs("mnist", "magnitude", 0.9, [0.9]),
            runs("mnist", "magnitude", 0.9, [0.8], regrow=True),
        ]
    )
    assert row(tables.table1(both), "magnitude", 0.9)["mean"] == 0.9
    assert row(tables.table1(both, {"regrow": "true"}), "magnitude", 0.9)["mean"] == 0.8
    with pytest.raises(ValueError, match="unknown setting 'regrowth'"):
        tables.table1(both, {"regrowth": "true"})


def test_a_choice_that_the_paper_does_not_make_must_be_made():
    both = pd.concat(runs("mnist", "magnitude", 0.9, [0.9], epochs=n) for n in (2, 3))
    with pytest.raises(ValueError, match=r"differ in epochs \(2, 3\)"):
        tables.table1(both)


def test_figures_are_made_of_what_is_there_and_the_others_named(store, tmp_path):
    written, missing = drawing.figures(store, tmp_path / "out")
    assert {path.name for path in written} == {
        f"{name}.png"
        for name in (
            "figure-04-mnist-fcn-75",
            "figure-26-mnist-fcn-75",
            "mnist-fcn-accuracy-against-compression",
            "mnist-fcn-75-twins",
            "mnist-fcn-75-sparsity-by-layer",
            "mnist-fcn-75-parts-of-the-log-bayes-factor",
        )
    }
    assert all(path.stat().st_size > 1000 for path in written)
    assert len(missing) == 48 - 2
    assert any("figure 22" in line and "bayes_magnitude 25%" in line for line in missing)


def test_learning_curves_draw_the_means_over_seeds(store):
    results = pd.read_csv(store / "results.csv")
    histories = statistics.twins(pd.read_csv(store / "histories.csv.gz"), results)
    figure = drawing._curves("mnist", "fcn", 0.75).draw(results, histories)
    left, factor, share = figure.axes
    lines = {(k.get_label(), k.get_linestyle()): k.get_ydata() for k in left.get_lines()}
    np.testing.assert_allclose(lines["Bayes magnitude", "--"], 1 / np.arange(1, 4) + 0.05)
    np.testing.assert_allclose(lines["Bayes magnitude", "-"], 1.1 / np.arange(1, 4))
    lines = {(k.get_label(), k.get_linestyle()): k.get_ydata() for k in factor.get_lines()}
    np.testing.assert_allclose(lines["Bayes magnitude", "-"], np.exp(np.full(3, -0.15)))
    np.testing.assert_allclose(lines["Bayes magnitude", ":"], np.exp([-0.15, 0, 0]))
    lines = {k.get_label(): k.get_ydata() for k in share.get_lines()}
    np.testing.assert_allclose(lines["Bayes random"], 0.75)


def test_the_commands(store, tmp_path, capsys):
    assert app.main(["paper", "table1", str(store), "--out", str(tmp_path / "t.md")]) == 0
    assert "paper 0.9779" in (tmp_path / "t.md").read_text()
    assert app.main(["paper", "table1", str(store), "--format", "csv"]) == 0
    assert "mnist,fcn,magnitude,0.75,0.91" in capsys.readouterr().out
    assert app.main(["paper", "table1", str(store), "--format", "png"]) == 2
    assert app.main(["paper", "table1", str(store), "--where", "beta"]) == 2
    assert (
        app.main(["paper", "figures", str(store), "--format", "svg", "--out", str(tmp_path)]) == 0
    )
    told = capsys.readouterr()
    assert "figure-04-mnist-fcn-75.svg" in told.out
    assert "not made: Paper's figure 5" in told.err
    assert app.main(["paper", "figures", str(tmp_path / "nothing")]) == 2
