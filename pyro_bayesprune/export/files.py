"""Leaving Pyro: a fit as a plain PyTorch module, and modules as files.

`bake` writes a fit's weights, zeros included, into a copy of its network; `compact` removes what
the zeros make superfluous; `write` stores the result, `read` gets it back without pickle:

====================  ====================================================================
format                what stands in the file
====================  ====================================================================
``safetensors``       all weights, and a JSON card of the architecture
``csr``, ``bitmask``  the same card; of each matrix the non-zero weights and where they are
``sparse``            the same card; of each tensor the smallest of the three
``torch``             a ``torch.export`` program (.pt2), any batch size
``onnx``              an ONNX graph, any batch size
====================  ====================================================================
"""

import copy
import json
import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from pyro_bayesprune._utils.files import digest, write_atomically
from pyro_bayesprune.export.chain import ARGUMENTS, NotAChain, arguments, chain, is_channels_last
from pyro_bayesprune.export.encodings import Values, decode, encode, part_names
from pyro_bayesprune.export.graphs import onnx_file, torch_file

Format = Literal["safetensors", "csr", "bitmask", "sparse", "torch", "onnx"]
FORMAT = "pyro_bayesprune network"
VERSION = 1
CHUNK = 1024


def write(
    module: nn.Module,
    path: str | Path,
    shape: Sequence[int],
    *,
    format: Format = "safetensors",
    values: Values = "float32",
) -> int:
    """Write a network, beside its place and then into it; return the file's size in bytes.

    Args:
        module: the network, baked or compacted; it is written as it computes in evaluation mode.
        path: the file.
        shape: shape of one input, e.g. (1, 28, 28).
        format: ``safetensors``, ``csr``, ``bitmask``, ``sparse``, ``torch`` or ``onnx``.
        values: of tensors of two or more dimensions: ``float32`` (exact), ``float16``, or ``int8``
            with one scale for each row. ``torch`` and ``onnx`` files hold ``float32`` only.

    Warns:
        UserWarning: where the network is no chain of known layers (`compaction.chain`): reading it
            back from safetensors then needs the module.

    Raises:
        ValueError: for an unknown format or kind of values, values that float16 cannot hold, or a
            network that torch cannot export.
        ImportError: if ONNX is asked for and not installed.
    """
    if format not in get_args(Format):
        raise ValueError(f"format must be one of {', '.join(get_args(Format))}, got {format!r}")
    if values not in get_args(Values):
        raise ValueError(f"values must be one of {', '.join(get_args(Values))}, got {values!r}")
    if format in ("torch", "onnx") and values != "float32":
        raise ValueError(f"the format {format} holds float32 values only, got {values!r}")
    module = copy.deepcopy(module).cpu().eval()
    if format == "torch":
        content = torch_file(module, shape)
    elif format == "onnx":
        content = onnx_file(module, shape)
    else:
        content = _card_file(module, shape, format, values)
    write_atomically(Path(path), content)
    return len(content)


def _card_file(module: nn.Module, shape: Sequence[int], format: str, values: Values) -> bytes:
    stored: dict[str, Tensor] = {}
    entries: dict[str, Any] = {}
    layers = _layers_or_none(module)
    named = module if layers is None else nn.Sequential(layers)
    for name, tensor in named.state_dict().items():
        parts, entries[name] = encode(name, tensor, format, values)
        stored |= {name + part: torch.from_numpy(array) for part, array in parts.items()}
    card = {
        "format": FORMAT,
        "version": VERSION,
        "shape": list(shape),
        "channels_last": is_channels_last(module),
        "layers": layers and [_described(n, layer) for n, layer in layers.items()],
        "tensors": entries,
    }
    text = json.dumps(card, separators=(",", ":"))
    return save(stored, metadata={"card": text, "sha256": digest(stored, text)})


def _layers_or_none(module: nn.Module) -> "OrderedDict[str, nn.Module] | None":
    """Return the layers for the card; None, with a warning, where a network is no chain."""
    try:
        return chain(module)
    except NotAChain as error:
        warnings.warn(
            f"the file holds no architecture, reading it needs read(path, net=...): {error}",
            stacklevel=4,
        )
        return None


def _described(name: str, layer: nn.Module) -> list[Any]:
    return [name, type(layer).__name__, arguments(layer)]


def read(path: str | Path, net: nn.Module | None = None) -> nn.Module:
    """Return the network of a file that `write` made (all formats but ``torch`` and ``onnx``).

    Nothing in the file is run: no pickle, only known layers with arguments that are checked. The
    checksum finds damage; it does not prove who wrote the file.

    Args:
        path: the file.
        net: a module to fill (a copy of it), where the file has no layers, because the network that
            was written is no chain of known ones; with others, the file must fit it.

    Returns:
        The network in evaluation mode, on the CPU. Pruned weights are zeros in it again.

    Raises:
        ValueError: for a file that is damaged, changed, of another format or version, or that does
            not fit ``net``; the message says which.
    """
    try:
        card, stored = _checked_file(path)
        tensors = {name: decode(name, entry, stored) for name, entry in card["tensors"].items()}
        unknown = set(stored) - part_names(card["tensors"])
        if unknown:
            raise ValueError(f"it has the unknown tensors {sorted(unknown)}")
        module = _built(card["layers"]) if net is None else copy.deepcopy(net)
        # The file names tensors as the chain of layers does; filling the chain fills the module.
        named = nn.Sequential(chain(module)) if card["layers"] and net is not None else module
        _check_shapes(named, tensors)
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError, MemoryError) as error:
        raise ValueError(f"{path} cannot be read as a network: {error}") from error
    named.load_state_dict(tensors, assign=net is None)
    if card["channels_last"]:
        module.to(memory_format=torch.channels_last)
    return module.eval()


def _checked_file(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the card and the tensors of a file whose checksum is right."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"it is not a readable safetensors file ({error})") from error
    if "card" not in metadata:
        raise ValueError("it has no card (pyro_bayesprune.export.write puts one in)")
    if metadata.get("sha256") != digest(tensors, metadata["card"]):
        raise ValueError("it is not as it was written, its SHA-256 differs")
    card = json.loads(metadata["card"])
    if (card["format"], card["version"]) != (FORMAT, VERSION):
        raise ValueError(
            f"expected {FORMAT!r}, version {VERSION}, got {card['format']!r}, {card['version']}"
        )
    return card, tensors


def _built(layers: Any) -> nn.Module:  # noqa: ANN401  (what JSON holds)
    """Return the network of a card's layers, on the meta device: without values."""
    if layers is None:
        raise ValueError("its network is no chain of known layers: give read(path, net=...)")
    kinds = {kind.__name__: kind for kind in ARGUMENTS}
    built: OrderedDict[str, nn.Module] = OrderedDict()
    for name, kind, options in layers:
        if kind not in kinds or set(options) != set(ARGUMENTS[kinds[kind]]) or name in built:
            raise ValueError(f"the layer {name!r} ({kind}, {options}) is not a known one")
        options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
        with torch.device("meta"):
            built[name] = kinds[kind](**options)
    return nn.Sequential(built)


def _check_shapes(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    expected = {n: tuple(t.shape) for n, t in module.state_dict().items()}
    found = {n: tuple(t.shape) for n, t in tensors.items()}
    for name in sorted(set(expected) | set(found)):
        if expected.get(name) != found.get(name):
            raise ValueError(
                f"the network needs {name!r} of shape {expected.get(name)}, the file has "
                f"{found.get(name)}"
            )
