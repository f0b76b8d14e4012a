"""torch.export and ONNX programs have the same outputs, and changed files are refused."""

import numpy as np
import onnx
import pytest
import torch
from helpers.exports import NETWORKS, SHAPE, sparsified

from pyro_bayesprune.export import compaction, files, graphs


class TestGraphs:
    @pytest.mark.parametrize("name", ["fcn", pytest.param("own forward", marks=pytest.mark.slow)])
    def test_torch_export(self, name, inputs, tmp_path):
        net = sparsified(NETWORKS[name](), 0.8, torch.Generator().manual_seed(2))
        files.write(net, tmp_path / "net.pt2", SHAPE, format="torch")
        loaded = torch.export.load(tmp_path / "net.pt2").module()
        torch.testing.assert_close(loaded(inputs), net(inputs))
        with pytest.raises(ValueError, match="not a readable safetensors file"):
            files.read(tmp_path / "net.pt2")

    @pytest.mark.parametrize(
        "name",
        ["fcn", *(pytest.param(n, marks=pytest.mark.slow) for n in ["own forward", "pools"])],
    )
    def test_onnx(self, name, inputs, tmp_path):
        net = sparsified(NETWORKS[name](), 0.8, torch.Generator().manual_seed(2))
        small = compaction.compact(net, SHAPE)
        files.write(small, tmp_path / "net.onnx", SHAPE, format="onnx")
        session = graphs.onnx_session(tmp_path / "net.onnx")
        for x in (inputs, inputs[:1]):
            outputs = torch.from_numpy(session.run(None, {"input": x.numpy()})[0])
            torch.testing.assert_close(outputs, net(x), atol=1e-5, rtol=1e-4)

    def test_onnx_files_that_were_changed(self, tmp_path):
        path = tmp_path / "net.onnx"
        weights = [onnx.numpy_helper.from_array(np.ones((2, 3), np.float32), "w")]
        graph = onnx.helper.make_graph([], "net", [], [], weights)
        model = onnx.helper.make_model(graph)
        onnx.helper.set_model_props(model, {"sha256": graphs._onnx_digest(model)})
        assert graphs._checked_onnx(self.saved(model, path))
        graph = model.graph.initializer[0]
        graph.raw_data = graph.raw_data[:-1] + b"@"
        with pytest.raises(ValueError, match="SHA-256 differs"):
            graphs.onnx_session(self.saved(model, path))
        path.write_bytes(b"no graph at all")
        with pytest.raises(ValueError, match="not a readable ONNX file"):
            graphs.onnx_session(path)

    @staticmethod
    def saved(model, path):
        path.write_bytes(model.SerializeToString())
        return path
