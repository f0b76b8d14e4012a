"""Statistics of results, compared with numbers that were calculated by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from helpers import only

from pyro_bayesprune.experiments import statistics
from pyro_bayesprune.experiments.config import configure


def run_row(method="magnitude", sparsity=0.9, seed=0, accuracy=0.9, **settings):
    """A row of results as in a store."""
    sparsity = {} if "unpruned" in method else {"sparsity": sparsity}
    config = configure("paper", method, seed=seed, **sparsity, **settings)
    values = {k: str(v) if isinstance(v, list) else v for k, v in config.to_dict().items()}
    known = {"id": config.id, "method": config.method, "num_train": 100}
    return values | known | {"test_accuracy": accuracy, "achieved_sparsity": config.sparsity}


def frame(*accuracies, **settings):
    """Runs of seeds 0, 1, … with these accuracies."""
    rows = [run_row(seed=s, accuracy=a, **settings) for s, a in enumerate(accuracies)]
    return pd.DataFrame(rows)


def test_the_summary_of_known_numbers():
    row = only(statistics.summary(frame(0.1, 0.2, 0.3)), measure="test_accuracy")
    assert (row["mean"], row["std"], row["seeds"]) == (pytest.approx(0.2), pytest.approx(0.1), 3)
    half = 4.302652729911275 * 0.1 / math.sqrt(3)  # t of 2 degrees of freedom, 97.5%
    assert row["low"] == pytest.approx(0.2 - half)
    assert row["high"] == pytest.approx(0.2 + half)


def test_the_interval_covers_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(3.0, 2.0, (2000, 5))
    rows = [statistics.describe(pd.Series(sample)) for sample in draws]
    hits = [row["low"] <= 3.0 <= row["high"] for row in rows]
    assert np.mean(hits) == pytest.approx(0.95, abs=0.015)


def test_one_seed_has_a_mean_and_nothing_more():
    row = only(statistics.summary(frame(0.5)), measure="test_accuracy")
    assert row["mean"] == 0.5 and row["seeds"] == 1
    assert row[["std", "low", "high"]].isna().all()


def test_runs_that_differ_in_a_setting_are_never_averaged():
    both = pd.concat([frame(0.1, 0.3), frame(0.5, 0.7, epochs=3)])
    assert statistics.varying(both) == ["epochs"]
    table = statistics.summary(both, ["test_accuracy"])
    assert dict(zip(table["epochs"], table["mean"], strict=True)) == pytest.approx(
        {3: 0.6, 25: 0.2}
    )


def test_a_run_that_is_there_twice_is_an_error():
    with pytest.raises(ValueError, match="more than one run of dataset=digits"):
        statistics.summary(pd.concat([frame(0.1), frame(0.1)]))


def test_equal_values_allow_no_interval():
    row = only(statistics.summary(frame(0.7, 0.7, 0.7)), measure="test_accuracy")
    assert row["mean"] == pytest.approx(0.7) and row[["low", "high"]].isna().all()


def test_twins_are_differences_of_log_joints_at_the_same_epoch():
    runs = pd.DataFrame(
        [
            run_row("bayes_unpruned"),
            run_row("bayes_magnitude"),
            run_row("unpruned"),
            run_row("magnitude", seed=1),
        ]
    )
    parts = {
        "bayes_unpruned": ([-100.0, -50.0], [-10.0, -8.0]),
        "bayes_magnitude": ([-130.0, -45.0], [-4.0, -4.0]),
        "unpruned": ([0.0, 0.0], [0.0, 0.0]),  # another objective: nobody's twin here
        "magnitude": ([-1.0, -1.0], [-1.0, -1.0]),  # no unpruned run has its seed
    }
    histories = pd.concat(
        pd.DataFrame(
            {
                "id": row["id"],
                "method": row["method"],
                "epoch": [1, 2],
                "log_likelihood_after": parts[row["method"]][0],
                "log_prior_after": parts[row["method"]][1],
                "log_joint_after": np.sum(parts[row["method"]], axis=0),
            }
        )
        for _, row in runs.iterrows()
    )
    table = statistics.twins(histories, runs)
    assert len(table) == len(histories)
    rows = table[table["method"] == "bayes_magnitude"]
    np.testing.assert_allclose(rows["twin_log_likelihood_ratio"], [-30.0, 5.0])
    np.testing.assert_allclose(rows["twin_log_prior_ratio"], [6.0, 4.0])
    np.testing.assert_allclose(rows["twin_log_bf"], [-24.0, 9.0])
    np.testing.assert_allclose(rows["twin_bf_per_datum"], np.exp([-0.24, 0.09]))
    assert (table.loc[table["method"] == "bayes_unpruned", "twin_log_bf"] == 0).all()
    assert table.loc[table["method"] == "magnitude", "twin_log_bf"].isna().all()
