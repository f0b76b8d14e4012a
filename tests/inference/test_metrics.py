"""Multiply-adds and the theoretical speedup against counts by hand."""

import pytest
import torch

import pyro_bayesprune as bp
from pyro_bayesprune.inference import metrics

FCN_COUNTS = {"fc1.weight": 64 * 5, "fc2.weight": 5 * 7, "fc3.weight": 7 * 10}

CNN_COUNTS = {
    "conv1.weight": 8 * 8 * (1 * 9) * 3,
    "conv2.weight": 4 * 4 * (3 * 9) * 4,
    "fc1.weight": 4 * 2 * 2 * 6,
    "fc2.weight": 6 * 10,
}


@pytest.mark.parametrize(
    ("net", "counts"),
    [
        (bp.FCN((1, 8, 8), 10, (5, 7)), FCN_COUNTS),
        (bp.CNN((1, 8, 8), 10, (3, 4), (6,)), CNN_COUNTS),
    ],
    ids=["fcn", "cnn"],
)
def test_multiply_adds_and_speedup_against_hand_counts(net, counts):
    assert metrics.layer_flops(net, (1, 8, 8)) == counts
    masks = {n: torch.ones_like(p, dtype=torch.bool) for n, p in net.named_parameters()}
    first = next(iter(counts))
    masks[first].view(-1)[: masks[first].numel() // 3] = False
    share = 1 - (masks[first].numel() // 3) / masks[first].numel()
    after = sum(counts.values()) - counts[first] * (1 - share)
    expected = sum(counts.values()) / after
    assert metrics.theoretical_speedup(counts, masks) == pytest.approx(expected)
