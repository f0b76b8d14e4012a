"""Files of whole programs: torch.export and ONNX."""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyro_bayesprune._utils.files import sha256


def torch_file(module: nn.Module, shape: Sequence[int]) -> bytes:
    """Return the bytes of a ``torch.export`` program of a network."""
    program, file = _program(module, shape), io.BytesIO()
    with warnings.catch_warnings():
        # Scalars (BatchNorm's counters) count as parts of a tensor; harmless on the CPU.
        warnings.filterwarnings("ignore", "No complete tensor found in the group")
        torch.export.save(program, file)
    return file.getvalue()


def _program(module: nn.Module, shape: Sequence[int]) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch")
    try:
        return torch.export.export(module, (_example(module, shape),), dynamic_shapes=({0: batch},))
    except Exception as error:  # export runs the user's own code
        raise ValueError(f"torch cannot export this network: {error}") from error


def _example(module: nn.Module, shape: Sequence[int]) -> Tensor:
    dtype = next((p.dtype for p in module.parameters()), torch.float32)
    return torch.zeros(2, *shape, dtype=dtype)


def onnx_file(module: nn.Module, shape: Sequence[int]) -> bytes:
    """Return the bytes of an ONNX graph of a network, its checksum among its properties."""
    _require("onnx", "onnxscript")
    import onnx

    program = _program(module, shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        exported = torch.onnx.export(
            program, dynamo=True, input_names=["input"], output_names=["output"], verbose=False
        )
    if exported is None:
        raise ValueError("torch cannot export this network to ONNX")
    proto = exported.model_proto
    onnx.helper.set_model_props(proto, {"sha256": _onnx_digest(proto)})
    return proto.SerializeToString()


def _require(*packages: str) -> None:
    from importlib.util import find_spec

    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ImportError(f"{missing[0]} is missing: pip install 'pyro-bayesprune[export]'")


def _onnx_digest(proto: Any) -> str:  # noqa: ANN401  (onnx is optional)
    """Return the SHA-256 of a model but for its properties, of which this is one."""
    model = type(proto)()
    model.CopyFrom(proto)
    del model.metadata_props[:]
    return sha256(model.SerializeToString(deterministic=True))


def onnx_session(path: str | Path, threads: int = 1) -> Any:  # noqa: ANN401  (optional)
    """Return an ONNX Runtime session, on the CPU, of a file that `write` made.

    Args:
        path: the file.
        threads: of one operator.

    Raises:
        ValueError: for a file that is damaged, changed, or not by `write`.
        ImportError: if ONNX Runtime is not installed.
    """
    _require("onnx", "onnxruntime")
    import onnxruntime

    proto = _checked_onnx(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _checked_onnx(path: str | Path) -> Any:  # noqa: ANN401
    """Return the model of a file whose checksum is right."""
    import onnx

    try:
        proto = onnx.load(str(path), load_external_data=False)  # a graph may name any other file
    except Exception as error:  # protobuf's own error has no public base
        raise ValueError(f"{path} is not a readable ONNX file: {error}") from error
    props = {p.key: p.value for p in proto.metadata_props}
    if props.get("sha256") != _onnx_digest(proto):
        raise ValueError(f"{path} is not as it was written: its SHA-256 differs")
    return proto
