"""The errors of float16 and the sizes of sparse files."""

import pytest
import torch
from helpers.exports import CARD_FORMATS, SHAPE, sparsified

import pyro_bayesprune as bp
from pyro_bayesprune.export import files


class TestEncodings:
    @pytest.mark.parametrize("format", CARD_FORMATS)
    def test_float16_has_a_small_error(self, format, tmp_path):
        net = sparsified(bp.FCN(SHAPE, 4, (30, 20, 10)), 0.8, torch.Generator().manual_seed(2))
        files.write(net, tmp_path / "net", SHAPE, format=format, values="float16")
        read = files.read(tmp_path / "net")
        for name, value in net.named_parameters():
            stored = read.get_parameter(name)
            assert stored.dtype == torch.float32
            largest = value.abs().flatten(1).amax(1, keepdim=True) if value.dim() > 1 else value
            assert ((stored - value).abs() <= 1e-3 * largest.abs() + 1e-12).all(), name

    def test_sparse_files_are_small_and_those_of_float16_smaller(self, tmp_path):
        net = sparsified(bp.FCN((1, 28, 28), 10, (300, 300, 300)), 0.99, torch.Generator(), dead=0)

        def size(**options):
            return files.write(net, tmp_path / "net", (1, 28, 28), **options)

        dense, csr = (size(format=f) for f in ("safetensors", "csr"))
        assert dense > 30 * csr
        assert size(format="sparse") <= csr
        assert size(format="csr", values="float16") < csr
