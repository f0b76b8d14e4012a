"""Encodings of a tensor in a file: dense, CSR or bitmask; exact or narrow numbers."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Values = Literal["float32", "float16", "int8"]
Arrays = dict[str, np.ndarray]


def encode(name: str, tensor: Tensor, format: str, values: Values) -> tuple[Arrays, dict]:
    """Return a tensor's parts by suffix, and its entry in the card."""
    if tensor.dtype == torch.bfloat16:
        raise ValueError(f"{name} is of bfloat16, which is not stored: convert the network first")
    array = tensor.detach().contiguous().numpy()
    entry = {"shape": list(array.shape), "dtype": str(array.dtype)}
    if not tensor.is_floating_point() or tensor.dim() < 2:  # biases, statistics, counters: small
        return _to_dense(array), entry | {"layout": "safetensors"}
    numbers, scale = _quantised(name, array, values)
    layouts = list(LAYOUTS) if format == "sparse" else [format]
    choices = {layout: LAYOUTS[layout][0](numbers) for layout in layouts}
    layout = min(choices, key=lambda kind: _size(choices[kind]))
    return choices[layout] | scale, entry | {"layout": layout, "values": values}


def _size(parts: Arrays) -> int:
    """Return the bytes of a tensor's parts in a file, with about what its header says of each."""
    return sum(part.nbytes + 80 for part in parts.values())


def _quantised(name: str, array: np.ndarray, values: Values) -> tuple[np.ndarray, Arrays]:
    """Return the numbers to store, and the scales (rows,) that go with them."""
    if values == "float16":
        if np.abs(array).max(initial=0) > np.finfo(np.float16).max:
            raise ValueError(f"{name} has values that float16 cannot hold")
        return array.astype(np.float16), {}
    if values == "int8":
        rows = array.reshape(len(array), -1)
        scale = (np.abs(rows).max(1, initial=0) / 127).astype(np.float32)
        scale[scale == 0] = 1
        return np.rint(rows / scale[:, None]).astype(np.int8).reshape(array.shape), {
            ".scale": scale
        }
    return array, {}


def _to_dense(array: np.ndarray) -> Arrays:
    return {"": array.copy()}  # tied weights share memory, tensors of a file must not


def _from_dense(parts: Arrays, shape: tuple[int, ...]) -> np.ndarray:
    return _part(parts, "", shape)


def _to_bitmask(array: np.ndarray) -> Arrays:
    kept = array != 0
    return {".mask": np.packbits(kept), ".values": array[kept]}


def _from_bitmask(parts: Arrays, shape: tuple[int, ...]) -> np.ndarray:
    size = int(np.prod(shape))
    mask = _part(parts, ".mask", (-(-size // 8),), np.uint8)
    kept = np.unpackbits(mask, count=size).astype(bool).reshape(shape)
    values = _part(parts, ".values", (int(kept.sum()),))
    array = np.zeros(shape, values.dtype)
    array[kept] = values
    return array


def _to_csr(array: np.ndarray) -> Arrays:
    rows = array.reshape(len(array), -1)
    columns = np.nonzero(rows)[1]
    counts = (rows != 0).sum(1)
    return {".rows": _narrow(counts), ".columns": _narrow(columns), ".values": rows[rows != 0]}


def _from_csr(parts: Arrays, shape: tuple[int, ...]) -> np.ndarray:
    rows = _part(parts, ".rows", shape[:1]).astype(np.int64)
    number = (int(rows.sum()),)
    columns = _part(parts, ".columns", number).astype(np.int64)
    values = _part(parts, ".values", number)
    array = np.zeros((shape[0], int(np.prod(shape[1:]))), values.dtype)
    array[np.repeat(np.arange(len(rows)), rows), columns] = values
    return array.reshape(shape)


Encode = Callable[[np.ndarray], Arrays]
Decode = Callable[[Arrays, tuple[int, ...]], np.ndarray]
LAYOUTS: dict[str, tuple[Encode, Decode]] = {
    "safetensors": (_to_dense, _from_dense),
    "bitmask": (_to_bitmask, _from_bitmask),
    "csr": (_to_csr, _from_csr),
}


def _narrow(numbers: np.ndarray) -> np.ndarray:
    """Return numbers of at least 0 in the narrowest type that holds them."""
    largest = int(numbers.max(initial=0))
    kinds = (np.uint8, np.uint16, np.uint32)
    return numbers.astype(next((k for k in kinds if largest <= np.iinfo(k).max), np.int64))


def part_names(entries: Mapping[str, Any]) -> set[str]:
    """Return the names that the parts of these tensors may have in a file."""
    suffixes = ("", ".mask", ".rows", ".columns", ".values", ".scale")
    return {name + suffix for name in entries for suffix in suffixes}


def decode(name: str, entry: Mapping[str, Any], stored: Mapping[str, Tensor]) -> Tensor:
    """Return the tensor that an entry of the card describes, from its stored parts.

    Raises:
        ValueError: for an unknown layout, or parts of a wrong shape.
    """
    shape = tuple(int(n) for n in entry["shape"])
    parts = {n.removeprefix(name): t.numpy() for n, t in stored.items() if n.startswith(name)}
    if entry["layout"] not in LAYOUTS:
        raise ValueError(f"{name} has the unknown layout {entry['layout']!r}")
    numbers = LAYOUTS[entry["layout"]][1](parts, shape)
    dtype = np.dtype(entry["dtype"])
    if entry.get("values") == "int8":
        scale = _part(parts, ".scale", shape[:1], np.float32)
        numbers = numbers * scale.reshape(-1, *[1] * (len(shape) - 1))
    return torch.from_numpy(np.array(numbers, dtype))


def _part(
    parts: Arrays, suffix: str, shape: tuple[int, ...], dtype: type | None = None
) -> np.ndarray:
    part = parts[suffix]
    if part.shape != shape or (dtype is not None and part.dtype != dtype):
        raise ValueError(f"a tensor {suffix!r} must have shape {shape}, got {part.shape}")
    return part
