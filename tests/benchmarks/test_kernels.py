"""Kernels have the outputs of the layer, and their measurements alternate."""

import copy

import pandas as pd
import pytest
import torch
from torch import nn

from pyro_bayesprune.benchmarks import kernels


@pytest.mark.parametrize("kernel", ["dense", *kernels.SPARSE])
@pytest.mark.parametrize("bias", [True, False])
def test_kernels_compute_what_the_layer_does(kernel, bias):
    net = nn.Sequential(nn.Linear(9, 8, bias=bias), nn.ReLU(), nn.Sequential(nn.Linear(8, 3)))
    before = copy.deepcopy(net)
    fast = kernels.with_kernel(net, kernel)
    with torch.inference_mode():
        for size in (1, 5):
            x = torch.randn(size, 9)
            torch.testing.assert_close(fast(x), net(x))
    assert str(net) == str(before)


def test_turns_alternate_and_are_counted():
    order = []
    runs = {name: lambda x, name=name: order.append(name) or x for name in "ab"}
    setting = kernels.Setting(rounds=4, seconds=1e-12)
    times = kernels.latencies(runs, torch.zeros(1), setting)
    assert times.shape == (4, 2)
    assert "".join(order) == "aaaaabbbbb" + "ab" * 4


def test_the_speed_up_is_the_median_and_the_quartiles_of_ratios():
    times = pd.DataFrame({"dense": [2.0, 4.0, 6.0], "other": [1.0, 1.0, 2.0]})
    assert kernels.speed_up(times, "other") == [3.0, 2.5, 3.5]
