"""Files of networks that no longer need Pyro.

`pyro_bayesprune.models.plain.bake` turns a fit into a plain module, `compact` makes it smaller,
`write` stores it and `read` loads it again, without pickle. The formats are:

- ``safetensors``: all weights, and a description of the architecture in JSON (the card);
- ``csr``: the same, but only the non-zero weights of each matrix, with their positions;
- ``sparse``: the same, with the smaller of these two layouts for each matrix;
- ``torch``: a ``torch.export`` program (.pt2) for any batch size;
- ``onnx``: an ONNX graph for any batch size.
"""

import copy
import json
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from pyro_bayesprune._utils.files import digest, path_of, write_atomically
from pyro_bayesprune.export.chain import (
    ARGUMENTS,
    Layers,
    NotAChain,
    arguments,
    chain,
    is_channels_last,
)
from pyro_bayesprune.export.encodings import SUFFIXES, Values, decode, encode
from pyro_bayesprune.export.graphs import onnx_file, torch_file

Format = Literal["safetensors", "csr", "sparse", "torch", "onnx"]
FORMAT = "pyro_bayesprune network"
VERSION = 1


def write(
    module: nn.Module,
    path: str | Path,
    shape: Sequence[int],
    *,
    format: Format = "safetensors",
    values: Values = "float32",
) -> int:
    """Write a network to a file, atomically. Return the size of the file in bytes.

    Args:
        module: the network, for example from `bake` or `compact`. It is stored in evaluation mode.
        path: path of the file.
        shape: shape of one input, e.g. (1, 28, 28).
        format: ``safetensors``, ``csr``, ``sparse``, ``torch`` or ``onnx``; see above.
        values: type of the tensors with two or more dimensions: ``float32`` (exact) or ``float16``.
            The formats ``torch`` and ``onnx`` support ``float32`` only.

    Warns:
        UserWarning: if the network is not a chain of known layers (`export.chain`). Reading the
            file then requires the module.

    Raises:
        ValueError: for an unknown format or type, for values outside the range of float16, or for
            a network that torch cannot export.
        ImportError: if the format is ``onnx`` and ONNX is not installed.
    """
    for name, value, choices in (("format", format, Format), ("values", values, Values)):
        if value not in get_args(choices):
            raise ValueError(f"{name} must be one of {', '.join(get_args(choices))}, got {value!r}")
    if format in ("torch", "onnx") and values != "float32":
        raise ValueError(f"the format {format} supports float32 values only, got {values!r}")
    module = copy.deepcopy(module).cpu().eval()
    if format == "torch":
        content = torch_file(module, shape)
    elif format == "onnx":
        content = onnx_file(module, shape)
    else:
        content = _card_file(module, shape, format, values)
    write_atomically(path_of(path), content)
    return len(content)


def _card_file(module: nn.Module, shape: Sequence[int], format: str, values: Values) -> bytes:
    stored: dict[str, Tensor] = {}
    entries: dict[str, Any] = {}
    layers = _layers_or_none(module)
    named = module if layers is None else nn.Sequential(layers)
    for name, tensor in named.state_dict().items():
        parts, entries[name] = encode(name, tensor, format, values)
        stored |= {name + part: _copy(array) for part, array in parts.items()}
    card = {
        "format": FORMAT,
        "version": VERSION,
        "shape": list(shape),
        "channels_last": is_channels_last(module),
        "layers": layers and [[n, type(m).__name__, arguments(m)] for n, m in layers.items()],
        "tensors": entries,
    }
    text = json.dumps(card, separators=(",", ":"))
    return save(stored, metadata={"card": text, "sha256": digest(stored, text)})


def _copy(array: np.ndarray) -> Tensor:
    """Copy an array: tied weights share memory, and empty arrays may have a stride of zero."""
    return torch.from_numpy(array).clone(memory_format=torch.contiguous_format)


def _layers_or_none(module: nn.Module) -> Layers | None:
    """Return the layers for the card. Warn and return None if the network is not a chain."""
    try:
        return chain(module)
    except NotAChain as error:
        warnings.warn(
            f"the file contains no architecture; reading it requires read(path, net=...): {error}",
            stacklevel=4,
        )
        return None


def read(path: str | Path, net: nn.Module | None = None) -> nn.Module:
    """Return the network from a file that `write` made (not in the formats ``torch`` and ``onnx``).

    No code from the file is executed: it contains no pickle, and it may only name known layers,
    whose arguments are checked. The checksum detects damage. It does not prove who wrote the file.

    Args:
        path: path of the file.
        net: a module with the architecture of the network. A copy of it receives the tensors. It
            is required if the network is not a chain of known layers, and must fit the file.

    Returns:
        The network in evaluation mode on the CPU. Pruned weights are zeros.

    Raises:
        ValueError: if the file is damaged, was changed, has another format or version, or does not
            fit ``net``; the message states which.
    """
    try:
        card, stored = _checked_file(path)
        tensors = {name: decode(name, entry, stored) for name, entry in card["tensors"].items()}
        if unknown := set(stored) - {name + suffix for name in tensors for suffix in SUFFIXES}:
            raise ValueError(f"it has the unknown tensors {sorted(unknown)}")
        module = _built(card["layers"]) if net is None else copy.deepcopy(net)
        # The file names tensors after the chain, which shares its tensors with the module.
        named = nn.Sequential(chain(module)) if card["layers"] and net is not None else module
        named.load_state_dict(tensors, assign=net is None)
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError, MemoryError) as error:
        raise ValueError(f"{path} cannot be read as a network: {error}") from error
    if card["channels_last"]:
        module.to(memory_format=torch.channels_last)
    return module.eval()


def _checked_file(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the card and the tensors of a file after a check of its checksum and version."""
    try:
        with safe_open(path_of(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"it is not a readable safetensors file ({error})") from error
    if "card" not in metadata:
        raise ValueError("it has no card: it was not written by pyro_bayesprune.export.write")
    if metadata.get("sha256") != digest(tensors, metadata["card"]):
        raise ValueError("it was changed after it was written: its SHA-256 differs")
    card = json.loads(metadata["card"])
    if (card["format"], card["version"]) != (FORMAT, VERSION):
        raise ValueError(
            f"expected {FORMAT!r}, version {VERSION}, got {card['format']!r}, {card['version']}"
        )
    return card, tensors


def _built(layers: Any) -> nn.Module:  # noqa: ANN401  (a JSON value)
    """Return the network that a card's layers describe, on the meta device (without values)."""
    if layers is None:
        raise ValueError("it is not a chain of known layers; call read(path, net=...)")
    kinds = {kind.__name__: kind for kind in ARGUMENTS}
    network: Layers = OrderedDict()
    for name, kind, options in layers:
        if kind not in kinds or set(options) != set(ARGUMENTS[kinds[kind]]) or name in network:
            raise ValueError(f"the layer {name!r} ({kind}, {options}) is not a known layer")
        options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
        with torch.device("meta"):
            network[name] = kinds[kind](**options)
    return nn.Sequential(network)
