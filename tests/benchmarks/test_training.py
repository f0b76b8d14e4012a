"""The training benchmark measures all competitors. The times are not tested."""

from functools import partial

import pandas as pd
import pytest
from helpers import report_script

from pyro_bayesprune.benchmarks import competitors, training

SMALL = competitors.Setting(batch_size=8, steps=3, rounds=2, hidden=(16, 16, 16))


@pytest.mark.parametrize("what", competitors.COMPETITORS)
def test_every_competitor_is_measured(what):
    row = training.steps(SMALL, ("plain", what))[-1]
    assert row["what"] == what and row["ratio_to_plain"] > 0 and row["peak_memory_ratio"] > 0


@pytest.mark.parametrize("network", ["fcn", "cnn"])
def test_the_end_of_an_epoch_is_measured(network):
    setting = competitors.Setting(network, batch_size=8, steps=2, rounds=1, hidden=(16, 16, 16))
    rows = training.epoch_end(setting, 1100)
    assert [row["decision"] for row in rows] == ["pruned", "pruned", "unchanged"]
    assert rows[1]["data_read"] < 1
    text = training.table({"rows": rows})
    assert all(row["what"] in text for row in rows)


def test_the_scaling_figure_draws_the_measured_ratios():
    rows = [
        {"over": over, "value": value, "what": "normal", "ratio_to_plain": value / 100}
        for over in ("width", "batch_size", "examples")
        for value in (64, 256)
    ]
    for axes in report_script("speed").figure(pd.DataFrame(rows)).axes:
        (line,) = axes.get_lines()
        assert list(line.get_xdata()) == [64, 256] and list(line.get_ydata()) == [0.64, 2.56]


@pytest.mark.parametrize("name", ["normal", "normal, masked 90%", "normal, masked 99%"])
def test_training_needs_no_more_memory_than_plain_pytorch(name):
    """Dense, from the first dense step to sparse matrices, and under them."""
    setting = competitors.Setting(steps=2, hidden=(512, 512))
    x, y = setting.examples(2 * setting.batch_size)
    build = {n: partial(competitors.COMPETITORS[n], setting, x, y) for n in ("plain", name)}
    peaks = {n: training.peak_bytes(competitor) for n, competitor in build.items()}
    assert peaks[name] < 1.1 * peaks["plain"]
