"""Data sets: splits, normalisation, files good and bad, downloads; the real ones where they lie."""

import os
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from helpers import BAD, FakeMNIST, raw_tensors, write

import pyro_bayesprune as bp
from pyro_bayesprune.data import builtin
from pyro_bayesprune.data.builtin import DATA_VARIABLE, data_folder, fetch, load_dataset
from pyro_bayesprune.data.dataset import check_pair
from pyro_bayesprune.data.files import read_file, write_file
from pyro_bayesprune.data.splitting import ROWS, held_out, split

REAL = Path(os.environ.get(DATA_VARIABLE, ""))
SHAPES = {"mnist": (1, 28, 28), "fashion_mnist": (1, 28, 28), "cifar10": (3, 32, 32)}


# --- splits


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
    tensors["train_images"][:, 0, 0, 0] = torch.arange(60)  # each image can be told from others
    data = split(tensors, validation=0.3)
    kept, held = data.train_x[:, 0, 0, 0], data.validation_x[:, 0, 0, 0]
    assert (len(kept), len(held), len(data.test_x)) == (42, 18, 20)
    assert len(torch.cat([kept, held]).unique()) == 60


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


def test_validation_of_zero_holds_nothing_out():
    data = split(raw_tensors(), validation=0)
    assert data.validation_x is None and data.validation_y is None and data.num_train == 60


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_out_of_range_is_an_error(share):
    with pytest.raises(ValueError, match=r"validation must be in \[0, 1\)"):
        split(raw_tensors(), validation=share)


# --- normalisation


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


# --- digits


def test_digits_are_whole_and_need_no_folder(tmp_path, monkeypatch):
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "nowhere"))
    data = load_dataset("digits")
    parts = (data.train_x, data.validation_x, data.test_x)
    assert sum(len(part) for part in parts) == 1797
    assert (tuple(data.shape), data.num_classes, data.name) == ((1, 8, 8), 10, "digits")
    assert not (tmp_path / "nowhere").exists()


def test_digits_test_set_is_the_same_for_every_data_seed():
    first, second = load_dataset("digits", seed=0), load_dataset("digits", seed=1)
    assert torch.equal(first.test_y, second.test_y)
    assert not torch.equal(first.validation_y, second.validation_y)


# --- files


def test_a_file_of_ones_own_by_its_path(tmp_path):
    data = load_dataset(str(write(tmp_path)), validation=0.1, seed=3)
    expected = split(raw_tensors(), validation=0.1, seed=3)
    assert (data.name, data.num_classes) == ("own", 3)
    assert torch.equal(data.train_x, expected.train_x) and torch.equal(data.test_y, expected.test_y)


def test_further_tensors_in_a_file_do_no_harm(tmp_path):
    assert read_file(write(tmp_path, extra=torch.zeros(2)))["train_images"].shape == (60, 3, 4, 5)


@pytest.mark.parametrize("case", BAD)
def test_a_malformed_file_is_one_clear_error(tmp_path, case):
    changes, message = BAD[case]
    path = write(tmp_path, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        load_dataset(str(path))
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0, 4, 7, 100, 500, -1])
def test_a_truncated_file_is_one_clear_error(tmp_path, size):
    path = write(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[:size])
    with pytest.raises(ValueError, match="own.safetensors is not a readable safetensors file"):
        load_dataset(str(path))


def test_a_flipped_bit_in_a_file_is_noticed(tmp_path):
    path = tmp_path / "own.safetensors"
    write_file(path, raw_tensors())
    content = path.read_bytes()
    for place in range(0, len(content), len(content) // 60):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(ValueError, match="own.safetensors"):
            read_file(path)
    path.write_bytes(content)
    assert read_file(path).keys() == raw_tensors().keys()


def test_a_file_of_another_kind_is_one_clear_error(tmp_path):
    torch.save(raw_tensors(), tmp_path / "own.safetensors")  # a pickle: it must not be loaded
    with pytest.raises(ValueError, match="is not a readable safetensors file"):
        load_dataset(str(tmp_path / "own.safetensors"))


@pytest.mark.parametrize("name", ["cifar11", "", "no/such/file.safetensors"])
def test_an_unknown_name_lists_the_known_ones(name):
    with pytest.raises(ValueError, match="expected digits, mnist, fashion_mnist, cifar10 or the"):
        load_dataset(name)


def test_loading_does_not_hold_on_to_the_file(tmp_path):
    path = write(tmp_path)
    data = load_dataset(str(path), validation=0)
    expected = split(raw_tensors(), validation=0)
    path.write_bytes(b"")  # a mapped file would now be gone from under the tensors
    assert torch.equal(data.train_y, expected.train_y)
    assert torch.equal(data.test_x, expected.test_x)


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    with pytest.raises(ValueError):
        write_file(tmp_path / "x.safetensors", {"train_images": "not a tensor"})
    shared = torch.zeros(4)
    with pytest.raises(RuntimeError):
        write_file(tmp_path / "x.safetensors", {"a": shared, "b": shared})
    assert list(tmp_path.iterdir()) == []


# --- where the files are


def test_folder_from_argument_then_variable_then_cache(tmp_path, monkeypatch):
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "variable"))
    assert data_folder(tmp_path / "argument") == tmp_path / "argument"
    assert data_folder() == tmp_path / "variable"
    monkeypatch.delenv(DATA_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert data_folder().name == "pyro_bayesprune"


# --- downloads (the network is replaced, nothing else)


class FakeCIFAR:
    """Data and targets as torchvision's CIFAR10 has them: numpy, channels last; a list."""

    def __init__(self, root, train, download):
        self.data = np.arange(12 * 2 * 5 * 3, dtype=np.uint16).astype(np.uint8)
        self.data = self.data.reshape(12, 2, 5, 3)
        self.targets = [label % 4 for label in range(12)]


def test_mnist_is_downloaded_and_written_once(tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "MNIST", FakeMNIST)
    monkeypatch.setattr(FakeMNIST, "calls", [])
    first = load_dataset("mnist", tmp_path)
    assert load_dataset("mnist", tmp_path).num_train == first.num_train
    assert FakeMNIST.calls == [True, False]
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["mnist.safetensors"]
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]  # no second copy is left
    tensors = read_file(tmp_path / "mnist.safetensors")
    assert tensors["train_images"].shape == (12, 1, 2, 3)
    assert tensors["train_images"][1, 0].tolist() == [[6, 7, 8], [9, 10, 11]]
    assert int(tensors["test_images"][0, 0, 0, 0]) == 100
    assert tensors["test_labels"].tolist() == [0, 1, 2, 3] * 3


def test_cifar_is_written_with_channels_first(tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", FakeCIFAR)
    tensors = read_file(fetch("cifar10", tmp_path))
    assert tensors["train_images"].shape == (12, 3, 2, 5)
    source = FakeCIFAR(None, True, True).data
    for channel in range(3):
        pixels = tensors["train_images"][:, channel].numpy()
        assert np.array_equal(pixels, source[..., channel])
    assert tensors["train_labels"].dtype == torch.int64


@pytest.mark.parametrize(
    "failure", [URLError("no route to host"), RuntimeError("File not found or corrupted.")]
)
def test_a_failed_download_says_what_to_do(tmp_path, monkeypatch, failure):
    def fail(root, train, download):
        (Path(root) / "half").write_bytes(b"half a download")
        raise failure

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fail)
    with pytest.raises(OSError, match="could not download cifar10") as caught:
        load_dataset("cifar10", tmp_path / "new")
    message = str(caught.value)
    assert f"Put cifar10.safetensors into {tmp_path / 'new'}" in message
    assert "--data-dir" in message and DATA_VARIABLE in message
    assert not (tmp_path / "new" / "cifar10.safetensors").exists()
    assert not list((tmp_path / "new").rglob("half"))


def test_only_torchvisions_data_sets_are_fetched():
    with pytest.raises(ValueError, match="expected one of mnist, fashion_mnist, cifar10"):
        fetch("digits")


def test_every_name_is_a_data_set_of_torchvision():
    assert all(hasattr(torchvision.datasets, name) for name in builtin.TORCHVISION.values())


# --- Dataset


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


# --- the real ones


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_real_data(name):
    if not (REAL / f"{name}.safetensors").is_file():
        pytest.skip(f"{DATA_VARIABLE} has no {name}.safetensors")
    data = load_dataset(name)
    labels = (data.train_y, data.validation_y, data.test_y)
    train, held, test = (part.bincount() for part in labels)
    assert (train + held).sum() == (50_000 if name == "cifar10" else 60_000)
    assert test.sum() == 10_000
    assert (held - 0.1 * (train + held)).abs().max() <= 0.5
    assert (tuple(data.shape), data.num_classes) == (SHAPES[name], 10)
    assert test.min() > 800
    for channel in range(data.shape[0]):
        values = data.train_x[:, channel].double()
        assert values.mean().abs() < 1e-5 and abs(values.std() - 1) < 1e-5
        assert data.test_x[:, channel].double().mean().abs() < 0.05
