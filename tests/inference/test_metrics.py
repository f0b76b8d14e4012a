"""Multiply-adds and the theoretical speedup against counts by hand."""

import math

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


class Tied(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = (torch.nn.Linear(6, 6, bias=False) for _ in range(2))
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(self.first(x).relu())


def test_multiply_adds_of_a_tied_weight_are_those_of_all_its_layers():
    assert metrics.layer_flops(Tied(), (6,)) == {"first.weight": 2 * 36}


def test_multiply_adds_that_belong_to_no_layers_weight_are_not_left_out():
    net = torch.nn.LSTM(4, 8, batch_first=True)
    with pytest.raises(ValueError, match="known of the weights of layers, not of 'weight_ih_l0'"):
        metrics.layer_flops(net, (7, 4))


def test_biases_have_no_dead_units():
    weights = {"weight": torch.tensor([[0.0, 0.0], [1.0, 0.0]]), "bias": torch.zeros(2)}
    masks = {name: weight != 0 for name, weight in weights.items()}
    assert metrics.dead_units(weights, masks) == {"weight": 1}


def test_a_network_without_any_weight_is_infinitely_compressed():
    sizes = metrics.sizes(6, {"weight": torch.zeros(2, 3, dtype=torch.bool)})
    assert sizes["compression_ratio"] == math.inf and sizes["collapsed_layers"] == ["weight"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32, torch.uint8])
def test_labels_may_have_any_dtype(dtype):
    """Several labels of an example, for a Bernoulli likelihood, are floating point numbers."""
    p = torch.rand(20, 3)
    probabilities, labels = torch.stack([1 - p, p], -1), (torch.rand(20, 3) < 0.5).long()
    for metric in (metrics.negative_log_likelihood, metrics.brier):
        assert metric(probabilities, labels.to(dtype)) == metric(probabilities, labels)
