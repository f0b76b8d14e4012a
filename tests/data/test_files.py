"""Data files: good ones are read whole, bad ones are one clear error."""

import pytest
import torch
from helpers import BAD, raw_tensors, write

from pyro_bayesprune.data.builtin import load_dataset
from pyro_bayesprune.data.files import read_file, write_file
from pyro_bayesprune.data.splitting import split


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


def test_loading_does_not_hold_on_to_the_file(tmp_path):
    path = write(tmp_path)
    data = load_dataset(str(path), validation=0)
    expected = split(raw_tensors(), validation=0)
    path.write_bytes(b"")  # a mapped file would now be gone from under the tensors
    assert torch.equal(data.train_y, expected.train_y)
    assert torch.equal(data.test_x, expected.test_x)


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    with pytest.raises(ValueError):
        write_file(tmp_path / "x.safetensors", {"train_images": "not a tensor"})

    def full(source, target):
        raise OSError(28, "no space left")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="no space"):
        write_file(tmp_path / "x.safetensors", raw_tensors())
    assert list(tmp_path.iterdir()) == []
