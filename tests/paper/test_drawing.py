"""The numbers of the paper's figures, and figures from a small store."""

import numpy as np
import pandas as pd
from helpers import drawn
from helpers.made_up_runs import stored_history, table_runs

from pyro_bayesprune.experiments import statistics
from pyro_bayesprune.paper import drawing


def test_figures_have_the_papers_numbers():
    specs = {spec.number: spec for spec in drawing.paper_figures()}
    assert [*specs] == [*range(4, 52)]
    curves = {
        4: ("mnist", "fcn", 0.75),
        19: ("cifar10", "cnn", 0.9),
        24: ("mnist", "fcn", 0.5),
        31: ("mnist", "cnn", 0.99),
        32: ("fashion_mnist", "fcn", 0.25),
        51: ("cifar10", "cnn", 0.99),
    }
    for number, (dataset, network, level) in curves.items():
        expected = ("learning curves", dataset, network, (level,), "", number)
        assert specs[number] == expected
    for number, pair, method in (
        (9, ("mnist", "cnn"), "bayes_magnitude"),
        (20, ("cifar10", "cnn"), "bayes_random"),
    ):
        assert specs[number] == ("loss by level", *pair, drawing.LEVELS, method, number)


def test_every_learning_curve_of_the_paper_has_its_own_number():
    curves = [spec for spec in drawing.paper_figures() if spec.kind == "learning curves"]
    appendix = {(s.dataset, s.network, s.levels) for s in curves if s.number >= 22}
    assert len(appendix) == 3 * 2 * 5 and len(curves) == 30 + 6
    by_level = [spec for spec in drawing.paper_figures() if spec.kind == "loss by level"]
    assert len({(s.dataset, s.network, s.method) for s in by_level}) == len(by_level) == 12


def test_available_figures_are_drawn_and_the_others_are_named(store, tmp_path):
    written, missing = drawing.figures(store, tmp_path / "out")
    assert {path.name for path in written} == {
        f"{name}.png"
        for name in (
            "figure-04-mnist-fcn-75",
            "figure-26-mnist-fcn-75",
            "mnist-fcn-accuracy-against-compression",
            "mnist-fcn-75-twins",
        )
    }
    assert all(path.stat().st_size > 1000 for path in written)
    assert len(missing) == 48 - 2
    assert any("figure 22" in line and "bayes_magnitude 25%" in line for line in missing)


def test_learning_curves_draw_the_means_over_seeds(store):
    results = pd.read_csv(store / "results.csv")
    histories = statistics.twins(pd.read_csv(store / "histories.csv.gz"), results)
    spec = drawing.FigureSpec("learning curves", "mnist", "fcn", (0.75,))
    figure = spec.draw(results, histories)
    left, factor = figure.axes
    lines = {(k.get_label(), k.get_linestyle()): k.get_ydata() for k in left.get_lines()}
    np.testing.assert_allclose(lines["Bayes magnitude", "--"], 1 / np.arange(1, 4) + 0.05)
    np.testing.assert_allclose(lines["Bayes magnitude", "-"], 1.1 / np.arange(1, 4))
    lines = drawn(factor)
    np.testing.assert_allclose(lines["Bayes magnitude"][1], [-15] * 3)
    np.testing.assert_allclose(lines["pruned"], [[1, 1], [-15, -15]])  # both seeds
    assert set(lines["threshold"][1]) == {-10.5}


def test_a_constant_sparsity_is_a_sentence_and_one_that_changes_has_a_panel(store):
    results = pd.read_csv(store / "results.csv")
    histories = statistics.twins(pd.read_csv(store / "histories.csv.gz"), results)
    spec = drawing.FigureSpec("learning curves", "mnist", "fcn", (0.75,))
    (legend,) = spec.draw(results, histories).legends
    assert legend.get_title().get_text().startswith("sparsity of the pruned networks: 75% in all")
    levels = histories["sparsity"] * histories["epoch"] / 3
    figure = spec.draw(results, histories.assign(sparsity=levels))
    np.testing.assert_allclose(drawn(figure.axes[2])["Bayes random"][1], [0.25, 0.5, 0.75])
    assert "sparsity" not in figure.legends[0].get_title().get_text()


def test_accuracies_have_the_intervals_of_the_test_set(store):
    results = pd.read_csv(store / "results.csv")
    one_seed = results[results["seed"] == 0]
    spec = drawing.FigureSpec("accuracy against compression", "mnist", "fcn")
    (ax,) = spec.draw(one_seed, results).axes
    assert "binomial, 10,000 test examples" in ax.get_legend().get_title().get_text()


def test_a_store_without_pruned_runs_has_no_figures_of_levels(tmp_path):
    runs = [table_runs("digits", method, 0.0, [0.9]) for method in ("unpruned", "bayes_unpruned")]
    results = pd.concat(runs)
    results.to_csv(tmp_path / "results.csv", index=False)
    histories = pd.concat(stored_history(run) for _, run in results.iterrows())
    histories.to_csv(tmp_path / "histories.csv.gz", index=False)
    written, _ = drawing.figures(tmp_path, tmp_path / "out")
    assert [path.name for path in written] == ["digits-fcn-accuracy-against-compression.png"]


def test_figures_of_close_sparsities_have_names_of_their_own():
    specs = [drawing.FigureSpec("twins", "mnist", "fcn", (level,)) for level in (0.995, 0.999)]
    assert [spec.name for spec in specs] == ["mnist-fcn-99.5-twins", "mnist-fcn-99.9-twins"]
