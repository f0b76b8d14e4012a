"""Files of networks: exact round trips, and invalid files."""

import json

import numpy as np
import pytest
import torch
from helpers.exports import CARD_FORMATS, NETWORKS, SHAPE, Residual, sparsified
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import pyro_bayesprune as bp
from pyro_bayesprune._utils.files import digest
from pyro_bayesprune.export import compaction, files


class TestFiles:
    @pytest.mark.parametrize("name", NETWORKS)
    @pytest.mark.parametrize("format", CARD_FORMATS)
    def test_exact_round_trip(self, name, format, inputs, tmp_path):
        net = sparsified(NETWORKS[name](), 0.8, torch.Generator().manual_seed(2))
        for module in (net, compaction.compact(net, SHAPE)):
            size = files.write(module, tmp_path / "net", SHAPE, format=format)
            assert size == (tmp_path / "net").stat().st_size
            assert list(tmp_path.iterdir()) == [tmp_path / "net"]  # nothing is left beside it
            torch.testing.assert_close(
                files.read(tmp_path / "net")(inputs), module(inputs), atol=1e-6, rtol=1e-5
            )
            filled = files.read(tmp_path / "net", net=module)
            for key, value in module.state_dict().items():
                assert torch.equal(filled.state_dict()[key], value), key

    @pytest.mark.parametrize("format", CARD_FORMATS)
    def test_a_layer_without_weights(self, format, inputs, tmp_path):
        net = bp.FCN(SHAPE, 4, (5, 5)).eval()
        net.fc2.weight.data.zero_()
        files.write(net, tmp_path / "net", SHAPE, format=format)
        torch.testing.assert_close(files.read(tmp_path / "net")(inputs), net(inputs))

    def test_channels_last_comes_back(self, tmp_path):
        files.write(bp.CNN(SHAPE, 4), tmp_path / "net", SHAPE)
        weight = files.read(tmp_path / "net").conv2.weight
        assert weight.is_contiguous(memory_format=torch.channels_last)

    def test_a_network_that_is_no_chain_needs_its_module(self, tmp_path):
        net, x = Residual(), torch.randn(3, 4)
        with pytest.warns(UserWarning, match="contains no architecture"):
            files.write(net, tmp_path / "net", (4,), format="sparse")
        with pytest.raises(ValueError, match=r"read\(path, net=...\)"):
            files.read(tmp_path / "net")
        torch.testing.assert_close(files.read(tmp_path / "net", net=Residual())(x), net(x))
        with pytest.raises(ValueError, match="Missing key"):
            files.read(tmp_path / "net", net=nn.Linear(4, 3))

    def test_unknown_formats_and_values_are_refused(self, tmp_path):
        net = nn.Linear(2, 2)
        for options in ({"format": "bitmask"}, {"values": "int8"}):
            with pytest.raises(ValueError, match="must be one of"):
                files.write(net, tmp_path / "net", (2,), **options)
        with pytest.raises(ValueError, match="float32 values only"):
            files.write(net, tmp_path / "net", (2,), format="onnx", values="float16")
        net.weight.data[0] = 1e6
        with pytest.raises(ValueError, match="outside the range of float16"):
            files.write(net, tmp_path / "net", (2,), values="float16")
        assert not list(tmp_path.iterdir())


def parts(path):
    with safe_open(path, framework="pt") as file:
        return load_file(path), dict(file.metadata())


def rewrite(path, change):
    """Change the card or the tensors of a file, and correct its checksum."""
    tensors, metadata = parts(path)
    card = json.loads(metadata["card"])
    change(card, tensors)
    metadata["card"] = json.dumps(card)
    metadata["sha256"] = digest(tensors, metadata["card"])
    save_file(tensors, path, metadata)


class TestRefused:
    @pytest.fixture
    def path(self, tmp_path):
        net = sparsified(bp.FCN(SHAPE, 4, (9, 8, 7)), 0.8, torch.Generator().manual_seed(2))
        files.write(net, tmp_path / "net", SHAPE, format="csr")
        return tmp_path / "net"

    def test_any_changed_byte(self, path):
        content = path.read_bytes()
        for place in np.linspace(0, len(content) - 1, 60).astype(int):
            changed = bytearray(content)
            changed[place] ^= 1
            path.write_bytes(changed)
            with pytest.raises(ValueError, match="cannot be read as a network"):
                files.read(path)

    def test_a_file_cut_short_and_one_that_is_not_there(self, path):
        path.write_bytes(path.read_bytes()[:-10])
        with pytest.raises(ValueError, match="not a readable safetensors file"):
            files.read(path)
        with pytest.raises(ValueError, match="cannot be read as a network"):
            files.read(path.with_name("none"))

    def test_a_file_without_a_card(self, path):
        save_file({"a": torch.ones(2)}, path)
        with pytest.raises(ValueError, match="it has no card"):
            files.read(path)

    @pytest.mark.parametrize(
        "change, message",
        [
            (lambda c, t: c.update(version=99), "version 1, got"),
            (lambda c, t: c["layers"][1].__setitem__(1, "system"), "not a known layer"),
            (lambda c, t: c["layers"][1][2].update(device="meta"), "not a known layer"),
            (lambda c, t: c["layers"][1][2].update(out_features=8), "size mismatch"),
            (lambda c, t: c["layers"][1][2].update(out_features="x"), "cannot be read"),
            (lambda c, t: c["tensors"]["fc1.weight"].update(layout="x"), "unknown layout"),
            (lambda c, t: c["tensors"]["fc1.weight"].update(shape=[9, 2]), "cannot be read"),
            (lambda c, t: c["tensors"]["fc1.weight"].update(dtype="object"), "cannot be read"),
            (lambda c, t: c["tensors"].pop("fc1.bias"), "unknown tensors"),
            (lambda c, t: c.pop("layers"), "cannot be read"),
            (lambda c, t: t.pop("fc1.weight.columns"), "cannot be read"),
            (lambda c, t: t.update({"more": torch.ones(1)}), "unknown tensors"),
            (lambda c, t: t["fc1.weight.rows"].add_(1), "must have shape"),
            (lambda c, t: t["fc1.weight.columns"].fill_(99), "cannot be read"),
        ],
    )
    def test_a_card_that_does_not_match(self, path, change, message):
        rewrite(path, change)
        with pytest.raises(ValueError, match=message):
            files.read(path)

    def test_another_network(self, path):
        with pytest.raises(ValueError, match="size mismatch"):
            files.read(path, net=bp.FCN(SHAPE, 4, (9, 8, 6)))
