"""Calibration and entropy of probabilities, compared with calculations by hand."""

import math

import pytest
import torch

from pyro_bayesprune.diagnostics import calibration
from pyro_bayesprune.inference import metrics


@pytest.fixture
def predictions():
    generator = torch.Generator().manual_seed(1)
    probabilities = (3 * torch.randn(500, 4, generator=generator)).softmax(-1)
    return probabilities, torch.multinomial(probabilities, 1, generator=generator)[:, 0]


def test_entropy_is_zero_when_sure_and_the_logarithm_when_guessing():
    entropy = calibration.predictive_entropy(torch.tensor([[1.0, 0, 0, 0], [0.25] * 4]))
    assert entropy.tolist() == pytest.approx([0, math.log(4)])


def test_reliability_in_hand_made_bins():
    probabilities = torch.tensor([[0.55, 0.45], [0.59, 0.41], [0.05, 0.95], [0.0, 1.0]])
    table = calibration.reliability_table(probabilities, torch.tensor([0, 1, 1, 1]))
    assert table["examples"].tolist() == [2, 2]
    assert table["from"].tolist() == pytest.approx([0.5, 0.9])
    assert table["confidence"].tolist() == pytest.approx([0.57, 0.975])
    assert table["accuracy"].tolist() == [0.5, 1.0]


def test_the_reliability_table_holds_the_calibration_error(predictions):
    table = calibration.reliability_table(*predictions, bins=15)
    gap = (table["accuracy"] - table["confidence"]).abs()
    expected = (gap * table["examples"]).sum() / table["examples"].sum()
    assert metrics.expected_calibration_error(*predictions) == pytest.approx(expected, abs=1e-6)


def test_rejecting_uncertain_examples_increases_the_accuracy(predictions):
    table = calibration.rejection_table(*predictions)
    assert table["accuracy"].iloc[0] == metrics.accuracy(*predictions)
    assert table["accuracy"].iloc[-1] > table["accuracy"].iloc[0] + 0.05
    assert table["examples"].iloc[-1] == 250
