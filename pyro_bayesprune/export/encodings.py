"""Encodings of a tensor in a file: dense or CSR (compressed sparse row), float32 or float16."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Values = Literal["float32", "float16"]
SUFFIXES = ("", ".rows", ".columns", ".values")  # of the names of a tensor's arrays
Arrays = dict[str, np.ndarray]


def encode(name: str, tensor: Tensor, format: str, values: Values) -> tuple[Arrays, dict]:
    """Return the arrays that store a tensor, by suffix of its name, and its entry in the card.

    Integers and tensors with fewer than two dimensions (biases, running statistics, counters) are
    small. They are always stored dense, without a loss of precision.
    """
    if tensor.dtype == torch.bfloat16:
        raise ValueError(f"{name} has the unsupported type bfloat16: convert the network first")
    array = tensor.detach().contiguous().numpy()
    entry = {"shape": list(array.shape), "dtype": str(array.dtype)}
    if not tensor.is_floating_point() or tensor.dim() < 2:
        return {"": array}, entry | {"layout": "safetensors"}
    if values == "float16":
        if np.abs(array).max(initial=0) > np.finfo(np.float16).max:
            raise ValueError(f"{name} has values outside the range of float16")
        array = array.astype(np.float16)
    layouts = ("safetensors", "csr") if format == "sparse" else (format,)
    choices = {n: _to_csr(array) if n == "csr" else {"": array} for n in layouts}
    # The header of a file has about 80 bytes for each array.
    sizes = {n: sum(part.nbytes + 80 for part in parts.values()) for n, parts in choices.items()}
    layout = min(choices, key=lambda layout: sizes[layout])
    return choices[layout], entry | {"layout": layout}


def _to_csr(array: np.ndarray) -> Arrays:
    rows = array.reshape(len(array), -1)
    counts, columns = (rows != 0).sum(1), np.nonzero(rows)[1]
    return {".rows": _narrow(counts), ".columns": _narrow(columns), ".values": rows[rows != 0]}


def _narrow(numbers: np.ndarray) -> np.ndarray:
    """Return non-negative integers in the narrowest unsigned type that can represent them."""
    return numbers.astype(np.min_scalar_type(numbers.max(initial=0)))


def decode(name: str, entry: Mapping[str, Any], stored: Mapping[str, Tensor]) -> Tensor:
    """Return the tensor that an entry of the card describes, from the tensors of a file."""
    shape = tuple(int(n) for n in entry["shape"])
    decoders = {"safetensors": _part, "csr": _from_csr}
    if entry["layout"] not in decoders:
        raise ValueError(f"{name} has the unknown layout {entry['layout']!r}")
    array = decoders[entry["layout"]](stored, name, shape)
    return torch.from_numpy(np.array(array, np.dtype(entry["dtype"])))


def _part(stored: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> np.ndarray:
    array = stored[name].numpy()
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    return array


def _from_csr(stored: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> np.ndarray:
    counts = _part(stored, f"{name}.rows", shape[:1]).astype(np.int64)
    size = (int(counts.sum()),)
    columns = _part(stored, f"{name}.columns", size).astype(np.int64)
    values = _part(stored, f"{name}.values", size)
    array = np.zeros((shape[0], int(np.prod(shape[1:]))), values.dtype)
    array[np.repeat(np.arange(len(counts)), counts), columns] = values
    return array.reshape(shape)
