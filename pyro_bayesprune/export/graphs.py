"""Files of complete programs: torch.export and ONNX."""

import io
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pyro_bayesprune._utils.files import sha256


def torch_file(module: nn.Module, shape: Sequence[int]) -> bytes:
    """Return the bytes of a ``torch.export`` program of a network."""
    program, file = _program(module, shape), io.BytesIO()
    with warnings.catch_warnings():
        # torch warns about scalars (counters of BatchNorm); this is harmless on the CPU.
        warnings.filterwarnings("ignore", "No complete tensor found in the group")
        torch.export.save(program, file)
    return file.getvalue()


def _program(module: nn.Module, shape: Sequence[int]) -> torch.export.ExportedProgram:
    dtype = next((p.dtype for p in module.parameters()), torch.float32)
    example = torch.zeros(2, *shape, dtype=dtype, device="cpu")
    batch = torch.export.Dim("batch")
    try:
        return torch.export.export(module, (example,), dynamic_shapes=({0: batch},))
    except Exception as error:  # the export runs the user's code, which may raise anything
        raise ValueError(f"torch cannot export this network: {error}") from error


def onnx_file(module: nn.Module, shape: Sequence[int]) -> bytes:
    """Return the bytes of an ONNX graph of a network, with a checksum in its properties."""
    _require("onnx", "onnxscript")
    import onnx

    program = _program(module, shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own code
        exported = torch.onnx.export(
            program, dynamo=True, input_names=["input"], output_names=["output"], verbose=False
        )
    if exported is None:
        raise ValueError("torch cannot export this network to ONNX")
    proto = exported.model_proto
    onnx.helper.set_model_props(proto, {"sha256": _onnx_digest(proto)})
    return proto.SerializeToString()


def _require(*packages: str) -> None:
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ImportError(f"{missing[0]} is missing: pip install 'pyro-bayesprune[export]'")


def _onnx_digest(proto: Any) -> str:  # noqa: ANN401  (onnx is optional)
    """Return the SHA-256 of an ONNX model without its properties, which contain the digest."""
    model = type(proto)()
    model.CopyFrom(proto)
    del model.metadata_props[:]
    return sha256(model.SerializeToString(deterministic=True))


def onnx_session(path: str | Path, threads: int = 1) -> Any:  # noqa: ANN401  (optional)
    """Return an ONNX Runtime session on the CPU for a file that `write` made.

    Args:
        path: path of the file.
        threads: number of threads for each operator.

    Raises:
        ValueError: if the file is damaged, was changed, or was not written by `write`.
        ImportError: if ONNX Runtime is not installed.
    """
    _require("onnx", "onnxruntime")
    import onnxruntime as ort

    content, options = _checked_onnx(path).SerializeToString(), ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _checked_onnx(path: str | Path) -> Any:  # noqa: ANN401
    """Return the ONNX model of a file after a check of its checksum."""
    import onnx

    try:  # without external data: a graph could refer to any file of the machine
        proto = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's exceptions have no public base class
        raise ValueError(f"{path} is not a readable ONNX file: {error}") from error
    props = {p.key: p.value for p in proto.metadata_props}
    if props.get("sha256") != _onnx_digest(proto):
        raise ValueError(f"{path} was changed after it was written: its SHA-256 differs")
    return proto
