"""The built-in regression data."""

import pytest
import torch

import pyro_bayesprune as bp


def test_diabetes_has_three_standardised_parts_without_common_patients():
    data = bp.load_dataset("diabetes", validation=0.1, seed=3)
    assert [len(y) for y in (data.train_y, data.validation_y, data.test_y)] == [319, 35, 88]
    assert data.train_x.shape == (319, 10) and data.train_y.shape == (319, 1)
    for values in (data.train_x, data.train_y):
        assert torch.allclose(values.mean(0), torch.zeros(values.shape[1]), atol=1e-5)
        assert torch.allclose(values.std(0), torch.ones(values.shape[1]), atol=1e-5)
    rows = torch.cat([data.train_x, data.validation_x, data.test_x])
    assert len(rows.unique(dim=0)) == 442


def test_the_test_part_is_fixed_and_the_validation_part_follows_the_seed():
    first, second = (bp.load_dataset("diabetes", seed=seed) for seed in (0, 1))
    assert torch.allclose(first.test_x.argsort(0), second.test_x.argsort(0))
    assert not torch.allclose(first.validation_x, second.validation_x)
    assert bp.load_dataset("diabetes", validation=0.0).validation_x is None
    with pytest.raises(ValueError, match="validation must be in"):
        bp.load_dataset("diabetes", validation=1.0)
