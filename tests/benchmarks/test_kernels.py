"""Kernels have the outputs of the layer, and their measurements alternate."""

import copy

import pytest
import torch
from torch import nn

from pyro_bayesprune.benchmarks import kernels


@pytest.mark.parametrize("kernel", kernels.KERNELS)
@pytest.mark.parametrize("bias", [True, False])
def test_kernels_compute_what_the_layer_does(kernel, bias):
    net = nn.Sequential(nn.Linear(9, 8, bias=bias), nn.ReLU(), nn.Sequential(nn.Linear(8, 3)))
    before = copy.deepcopy(net)
    fast = kernels.with_kernels(net, {"0": kernel, "2.0": kernel})
    with torch.inference_mode():
        for size in (1, 5):
            x = torch.randn(size, 9)
            torch.testing.assert_close(fast(x), net(x))
    assert str(net) == str(before)


def test_turns_alternate_and_are_counted():
    order = []
    runs = {name: lambda x, name=name: order.append(name) or x for name in "ab"}
    setting = kernels.Setting(rounds=4, seconds=0.0)
    times = kernels.latencies(runs, torch.zeros(1), setting)
    assert [len(t) for t in times.values()] == [4, 4]
    assert "".join(order) == "aaaaabbbbb" + "ab" * 4


def test_spread_and_speed_up():
    assert kernels.spread([3.0, 1.0, 2.0, 5.0, 4.0]) == [3.0, 2.0, 4.0]
    assert kernels.speed_up([2.0, 4.0, 6.0], [1.0, 1.0, 2.0]) == [3.0, 2.5, 3.5]
