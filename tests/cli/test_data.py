"""The command data lists and fetches data sets."""

import pytest
from helpers.commands import called

from pyro_bayesprune.data.builtin import DATA_VARIABLE

pytestmark = pytest.mark.usefixtures("elsewhere")


def test_data_list_says_what_is_there(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    (tmp_path / "cifar10.safetensors").write_bytes(b"")
    code, out, errors = called(capsys, "data", "list")
    assert (code, errors) == (0, [])
    assert out[0].startswith(f"data folder: {tmp_path} ")
    assert [line.split(maxsplit=1) for line in out[1:]] == [
        ["digits", "built in"],
        ["diabetes", "built in"],
        ["mnist", "not downloaded"],
        ["fashion_mnist", "not downloaded"],
        ["cifar10", str(tmp_path / "cifar10.safetensors")],
    ]


def test_data_fetch_writes_the_file_and_prints_its_path(capsys, tmp_path, monkeypatch):
    import torchvision
    from helpers import FakeMNIST

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", FakeMNIST)
    path = tmp_path / "data" / "fashion_mnist.safetensors"
    code, out, errors = called(capsys, "data", "fetch", "fashion_mnist", "--data-dir", path.parent)
    assert (code, out, errors) == (0, [str(path)], []) and path.exists()
