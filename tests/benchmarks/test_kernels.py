"""Kernels have the outputs of the layer."""

import copy

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
