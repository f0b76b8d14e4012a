"""Data sets by name or path, downloads, and the real ones where they lie."""

import os
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from helpers import FakeMNIST, raw_tensors, write

from pyro_bayesprune.data import builtin
from pyro_bayesprune.data.builtin import DATA_VARIABLE, data_folder, fetch, load_dataset
from pyro_bayesprune.data.files import read_file
from pyro_bayesprune.data.splitting import split

REAL = Path(os.environ.get(DATA_VARIABLE, ""))
SHAPES = {"mnist": (1, 28, 28), "fashion_mnist": (1, 28, 28), "cifar10": (3, 32, 32)}


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


@pytest.mark.parametrize("name", ["cifar11", "", "no/such/file.safetensors"])
def test_an_unknown_name_lists_the_known_ones(name):
    with pytest.raises(
        ValueError, match="expected digits, diabetes, mnist, fashion_mnist, cifar10 or the"
    ):
        load_dataset(name)


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
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]  # no second copy
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


# --- the real ones


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_real_data(name):
    if not (REAL / f"{name}.safetensors").is_file():
        pytest.skip(f"{DATA_VARIABLE} has no {name}.safetensors")
    data = load_dataset(name)
    labels = (data.train_y, data.validation_y, data.test_y)
    train, validation, test = (part.bincount() for part in labels)
    assert (train + validation).sum() == (50_000 if name == "cifar10" else 60_000)
    assert test.sum() == 10_000
    assert (validation - 0.1 * (train + validation)).abs().max() <= 0.5
    assert (tuple(data.shape), data.num_classes) == (SHAPES[name], 10)
    assert test.min() > 800
    for channel in range(data.shape[0]):
        values = data.train_x[:, channel].double()
        assert values.mean().abs() < 1e-5 and abs(values.std() - 1) < 1e-5
        assert data.test_x[:, channel].double().mean().abs() < 0.05
