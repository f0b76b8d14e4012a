"""Encodings of sparse and of narrow values: their errors and their sizes."""

import pytest
import torch
from helpers.exports import CARD_FORMATS, SHAPE, sparsified

import pyro_bayesprune as bp
from pyro_bayesprune.export import files


class TestEncodings:
    @pytest.mark.parametrize("values, error", [("float16", 1e-3), ("int8", 1 / 127)])
    @pytest.mark.parametrize("format", CARD_FORMATS)
    def test_narrow_values(self, format, values, error, tmp_path):
        net = sparsified(bp.FCN(SHAPE, 4, (30, 20, 10)), 0.8, torch.Generator().manual_seed(2))
        net.fc1.weight.data[0] *= 1e-3  # its own scale keeps a small row exact
        files.write(net, tmp_path / "net", SHAPE, format=format, values=values)
        found = files.read(tmp_path / "net")
        for name, value in net.named_parameters():
            stored = found.get_parameter(name)
            assert stored.dtype == torch.float32
            largest = value.abs().flatten(1).amax(1, keepdim=True) if value.dim() > 1 else value
            assert ((stored - value).abs() <= error * largest.abs() + 1e-12).all(), name

    def test_sparse_files_are_small_and_narrow_ones_smaller(self, tmp_path):
        net = sparsified(bp.FCN((1, 28, 28), 10, (300, 300, 300)), 0.99, torch.Generator(), dead=0)

        def size(**options):
            return files.write(net, tmp_path / "net", (1, 28, 28), **options)

        dense, csr, mask = (size(format=f) for f in ("safetensors", "csr", "bitmask"))
        assert dense > 30 * csr and csr < mask
        assert size(format="sparse") <= csr
        assert size(format="csr", values="int8") < size(format="csr", values="float16") < csr
