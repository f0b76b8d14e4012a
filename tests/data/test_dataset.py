"""Data that do not fit together are errors."""

import pytest
import torch

import pyro_bayesprune as bp
from pyro_bayesprune.data.dataset import check_pair


def test_data_that_do_not_fit_are_errors():
    x, y = torch.zeros(3, 2), torch.zeros(3).long()
    for bad_x, bad_y, message in [
        (x[:2], y, "equally many, got 2, 3"),
        (x[:0], y[:0], "equally many, got 0, 0"),
        (x.clone().fill_(torch.nan), y, "train inputs must be finite, got 6"),
        (torch.tensor([[0.0], [-torch.inf], [1.0]]), y, "train inputs must be finite, got 1"),
        (torch.tensor([[0.0], [torch.inf], [torch.nan]]), y, "train inputs must be finite, got 2"),
        (x, y - 1, "labels must not be negative, got -1"),
        (x, torch.tensor([0.0, 1.0, torch.nan]), "train targets must be finite, got 1"),
        (x.numpy(), y, "must be tensors, got ndarray"),
    ]:
        with pytest.raises(ValueError, match=message):
            check_pair(bad_x, bad_y)


def test_half_a_pair_is_an_error():
    x, y = torch.zeros(3, 2), torch.zeros(3).long()
    with pytest.raises(ValueError, match="test_x and test_y must be given together"):
        bp.Dataset(x, y, test_x=x)


def test_real_targets_have_no_classes():
    with pytest.raises(ValueError, match="real targets have no classes"):
        _ = bp.Dataset(torch.zeros(3, 2), torch.zeros(3)).num_classes


def test_all_parts_have_targets_of_one_shape():
    x, y = torch.zeros(3, 2), torch.zeros(3, 1)
    with pytest.raises(ValueError, match=r"test targets .* training targets, \(1,\).* got \(\)"):
        bp.Dataset(x, y, test_x=x, test_y=y[:, 0])
