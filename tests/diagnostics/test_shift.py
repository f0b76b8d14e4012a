"""Shifted inputs, and inputs of another data set."""

import math

import pytest
import torch

from pyro_bayesprune.diagnostics import shift


def test_a_quarter_turn_turns_an_image_by_a_quarter():
    x = torch.randn(2, 1, 6, 6)
    assert torch.allclose(shift.rotated(x, 90), x.rot90(1, (2, 3)), atol=1e-5)


def test_noise_has_its_scale_and_its_seed():
    x = torch.zeros(50, 1, 10, 10)
    assert shift.noised(x, 0.5).std().item() == pytest.approx(0.5, rel=0.05)
    assert torch.equal(shift.noised(x, 0.5), shift.noised(x, 0.5))


def test_shifts_are_measured_for_every_predictor():
    x, y = torch.randn(40, 1, 4, 4), torch.randint(0, 3, (40,))
    table = shift.shift_table(
        {"a": lambda x: x.flatten(1)[:, :3].softmax(-1), "b": lambda x: torch.full((40, 3), 1 / 3)},
        x, y, angles=(0, 30), noises=(0, 1),
    )  # fmt: skip
    assert len(table) == 2 * 4 and set(table["shift"]) == {"rotation", "noise"}
    assert (table[table["network"] == "b"]["entropy"] - math.log(3)).abs().max() < 1e-6


def test_foreign_inputs_are_detected_by_their_entropy():
    sure, unsure = torch.tensor([[0.99, 0.01]] * 5), torch.tensor([[0.5, 0.5]] * 7)
    assert shift.out_of_distribution_auroc(sure, unsure) == 1.0
    assert shift.out_of_distribution_auroc(sure, sure) == 0.5


def test_words_are_not_shifted():
    words = torch.tensor([[1, 2], [3, 4]])
    assert shift.shift_table({"MAP": lambda x: x.double()}, words, torch.tensor([0, 1])).empty
