"""Statistics of results, against numbers worked out by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from helpers import only

from pyro_bayesprune.experiments import statistics
from pyro_bayesprune.experiments.config import configure


def run_row(method="magnitude", sparsity=0.9, seed=0, accuracy=0.9, **settings):
    """A row of results, as a store has it."""
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
    hits = [low <= 3.0 <= high for low, high in map(statistics.t_interval, draws)]
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


def test_paired_differences_by_hand():
    both = pd.concat([frame(0.5, 0.6, 0.8), frame(0.4, 0.4, 0.5, method="random")])
    row = only(statistics.paired(both, [("magnitude", "random")]))
    assert row["difference"] == pytest.approx(0.2)
    assert row["std"] == pytest.approx(0.1)
    t = 0.2 / (0.1 / math.sqrt(3))
    assert row["p"] == pytest.approx(1 - t / math.sqrt(t**2 + 2))  # closed form for 2 d.f.
    assert row["seeds"] == 3


def test_only_seeds_that_both_have_are_compared():
    both = pd.concat([frame(0.5, 0.6), frame(0.4, 0.5, 0.9, method="random")])
    row = only(statistics.paired(both, [("magnitude", "random")]))
    assert row["seeds"] == 2 and row["difference"] == pytest.approx(0.1)


def test_the_unpruned_is_compared_with_every_sparsity():
    runs = pd.concat(
        [frame(0.5, sparsity=0.5), frame(0.7, sparsity=0.9), frame(0.4, method="unpruned")]
    )
    table = statistics.paired(runs, [("magnitude", "unpruned")])
    assert dict(zip(table["sparsity"], table["difference"], strict=True)) == pytest.approx(
        {0.5: 0.1, 0.9: 0.3}
    )
    assert table["p"].isna().all() and table["p_corrected"].isna().all()


def test_another_setting_can_be_compared_all_else_equal():
    both = pd.concat([frame(0.5, 0.6), frame(0.7, 0.8, regrow=True)])
    row = only(statistics.paired(both, [(True, False)], column="regrow"))
    assert row["difference"] == pytest.approx(0.2) and row["seeds"] == 2


def test_p_values_are_corrected_for_all_comparisons_of_the_table():
    rng = np.random.default_rng(1)
    runs = pd.concat(
        frame(*rng.normal(size=4), method=m, sparsity=s)
        for m in ("magnitude", "random")
        for s in (0.25, 0.5, 0.9)
    )
    table = statistics.paired(runs, [("magnitude", "random")], correction="bh")
    p = np.sort(table["p"])
    step_up = np.minimum.accumulate((p * 3 / np.arange(1, 4))[::-1])[::-1]
    np.testing.assert_allclose(np.sort(table["p_corrected"]), np.minimum(step_up, 1))
    harmonic = 1 + 1 / 2 + 1 / 3
    strict = statistics.paired(runs, [("magnitude", "random")])
    np.testing.assert_allclose(np.sort(strict["p_corrected"]), np.minimum(step_up * harmonic, 1))


@pytest.mark.parametrize(("shift", "p"), [(0.0, 1.0), (0.5, 0.0)])
def test_equal_differences_leave_no_doubt(shift, p):
    both = pd.concat([frame(0.5 + shift, 0.25 + shift), frame(0.5, 0.25, method="random")])
    assert only(statistics.paired(both, [("magnitude", "random")]))["p"] == p


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
    seen = table[table["method"] == "bayes_magnitude"]
    np.testing.assert_allclose(seen["twin_log_likelihood_ratio"], [-30.0, 5.0])
    np.testing.assert_allclose(seen["twin_log_prior_ratio"], [6.0, 4.0])
    np.testing.assert_allclose(seen["twin_log_bf"], [-24.0, 9.0])
    np.testing.assert_allclose(seen["twin_bf_per_datum"], np.exp([-0.24, 0.09]))
    assert (table.loc[table["method"] == "bayes_unpruned", "twin_log_bf"] == 0).all()
    assert table.loc[table["method"] == "magnitude", "twin_log_bf"].isna().all()
