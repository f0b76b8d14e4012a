"""Held-out examples and normalisation."""

import pytest
import torch
from helpers import raw_tensors

from pyro_bayesprune.data.splitting import ROWS, held_out, split


def test_held_out_examples_are_stratified():
    labels = torch.tensor([0] * 100 + [1] * 50 + [2] * 10)[torch.randperm(160)]
    marked = held_out(labels, 0.2, seed=0)
    assert [int(marked[labels == c].sum()) for c in range(3)] == [20, 10, 2]


def test_held_out_examples_depend_on_the_data_seed_alone():
    labels = torch.arange(200) % 4
    first = held_out(labels, 0.25, seed=1)
    torch.manual_seed(99)
    assert torch.equal(first, held_out(labels, 0.25, seed=1))
    assert not torch.equal(first, held_out(labels, 0.25, seed=2))


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_no_class_is_taken_from_training_altogether(share):
    labels = torch.tensor([0] * 20 + [1] * 2 + [2])
    assert set(labels[~held_out(labels, share, seed=0)].tolist()) == {0, 1, 2}


def test_parts_are_disjoint_and_complete():
    tensors = raw_tensors()
    tensors["train_images"][:, 0, 0, 0] = torch.arange(60)  # each image is different
    data = split(tensors, validation=0.3)
    train, validation = data.train_x[:, 0, 0, 0], data.validation_x[:, 0, 0, 0]
    assert (len(train), len(validation), len(data.test_x)) == (42, 18, 20)
    assert len(torch.cat([train, validation]).unique()) == 60


def test_images_keep_their_labels():
    tensors = raw_tensors(classes=3)
    for part in ("train", "test"):
        labels = tensors[f"{part}_labels"]
        tensors[f"{part}_images"][:, 0] = (50 * labels.to(torch.uint8))[:, None, None]
    data = split(tensors, validation=0.2)
    for part in ("train", "validation", "test"):
        x, y = getattr(data, f"{part}_x"), getattr(data, f"{part}_y")
        brightness = x[:, 0, 0, 0]
        assert len(brightness.unique()) == 3
        assert torch.equal(brightness.unique(return_inverse=True)[1], y)


def test_validation_of_zero_has_no_validation_part():
    data = split(raw_tensors(), validation=0)
    assert data.validation_x is None and data.validation_y is None and data.num_train == 60


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_out_of_range_is_an_error(share):
    with pytest.raises(ValueError, match=r"validation must be in \[0, 1\)"):
        split(raw_tensors(), validation=share)


@pytest.mark.parametrize("validation", [0.0, 0.3])
def test_channels_are_normalised_by_the_training_part(validation):
    tensors = raw_tensors()
    data = split(tensors, validation=validation)
    for channel in range(3):
        values = data.train_x[:, channel].double()
        assert values.mean().abs() < 1e-6 and abs(values.std(correction=0) - 1) < 1e-6
    out = held_out(tensors["train_labels"], validation, seed=0)
    pixels = tensors["train_images"][~out].double()
    mean = pixels.mean((0, 2, 3), keepdim=True)
    std = pixels.std((0, 2, 3), correction=0, keepdim=True)
    expected = (tensors["test_images"] - mean) / std
    torch.testing.assert_close(data.test_x.double(), expected, rtol=1e-5, atol=1e-6)


def test_validation_and_test_images_do_not_move_the_statistics():
    tensors = raw_tensors()
    before = split(tensors, validation=0.3)
    out = held_out(tensors["train_labels"], 0.3, seed=0)
    tensors["train_images"][out] = 255
    tensors["test_images"][:] = 255
    after = split(tensors, validation=0.3)
    assert torch.equal(before.train_x, after.train_x)
    assert not torch.equal(before.test_x, after.test_x)


def test_more_images_than_are_converted_at_a_time():
    tensors = raw_tensors(n=2 * ROWS + 17)
    data = split(tensors, validation=0)
    pixels = tensors["train_images"].double()
    mean = pixels.mean((0, 2, 3), keepdim=True)
    std = pixels.std((0, 2, 3), correction=0, keepdim=True)
    torch.testing.assert_close(data.train_x.double(), (pixels - mean) / std, rtol=1e-5, atol=1e-6)


def test_a_channel_of_one_colour_is_centred():
    tensors = raw_tensors()
    tensors["train_images"][:, 1] = 7
    data = split(tensors)
    assert (data.train_x[:, 1] == 0).all() and torch.isfinite(data.test_x).all()


def test_the_data_follow_the_default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        data = split(raw_tensors())
    finally:
        torch.set_default_dtype(torch.float32)
    assert data.train_x.dtype == torch.float64
    assert data.train_x.mean().abs() < 1e-14
