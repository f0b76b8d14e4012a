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
import hashlib
import io
import json
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from pyro_bayesprune.compaction import (
    ARGUMENTS,
    NotAChain,
    arguments,
    chain,
    compact,
    is_channels_last,
)
from pyro_bayesprune.data import digest
from pyro_bayesprune.model import BayesianModule, Model
from pyro_bayesprune.runs import write_atomically

__all__ = ["bake", "compact", "onnx_session", "read", "write"]

Format = Literal["safetensors", "csr", "bitmask", "sparse", "torch", "onnx"]
Values = Literal["float32", "float16", "int8"]
Arrays = dict[str, np.ndarray]
FORMAT = "pyro_bayesprune network"
VERSION = 1
CHUNK = 1024


class Fitted(Protocol):
    """What `bake` needs: a `Fit`, or a run that was read from disk."""

    @property
    def model(self) -> Model:
        """The Pyro model."""

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """A value for each latent site."""

    @property
    def masks(self) -> Mapping[str, Tensor]:
        """A bool tensor for each prunable site, True where a weight is kept."""

    @property
    def buffers(self) -> Mapping[str, Tensor]:
        """The model's buffers by name."""


@torch.no_grad()
def bake(fit: Fitted, *, recalibrate: Tensor | None = None) -> nn.Module:
    """Return a fit's network as a plain module: weights and zeros written in, no Pyro.

    Args:
        fit: of a `BayesianModule`. Its module is not changed.
        recalibrate: training inputs (n, ...) on which BatchNorm's statistics are estimated anew
            (those of training lag behind the last pruning step); None leaves them.

    Returns:
        A copy of the network in evaluation mode.

    Raises:
        ValueError: for a fit of another model, or weights, masks or buffers that do not fit it.
    """
    if not isinstance(fit.model, BayesianModule):
        raise ValueError(f"only a BayesianModule has a module to bake, got {type(fit.model)}")
    net = copy.deepcopy(fit.model.net)
    _fill("weights", dict(net.named_parameters()), fit.weights)
    buffers = {n.removeprefix("net."): b for n, b in fit.buffers.items() if n.startswith("net.")}
    _fill("buffers", dict(net.named_buffers()), buffers)
    for name, parameter in net.named_parameters():
        if name in fit.masks:
            parameter.masked_fill_(~fit.masks[name].to(parameter.device), 0)
    if recalibrate is not None:
        _recalibrate(net, recalibrate)
    return net.eval()


def _fill(what: str, targets: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, target in targets.items():
        found = tuple(values[name].shape) if name in values else None
        if found != tuple(target.shape):
            raise ValueError(
                f"the fit's {what} must have {name!r} of shape {tuple(target.shape)}, got {found}"
            )
        target.copy_(values[name])


def _recalibrate(net: nn.Module, x: Tensor) -> None:
    """Set BatchNorm's running statistics to the mean of those of the chunks of ``x``."""
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    net.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
        norm.train()
    for chunk in x.chunk(-(-len(x) // CHUNK)):  # of nearly equal size: none of a single example
        net(chunk)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


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
        content = _torch_file(module, shape)
    elif format == "onnx":
        content = _onnx_file(module, shape)
    else:
        content = _card_file(module, shape, format, values)
    write_atomically(Path(path), content)
    return len(content)


# torch.export and ONNX


def _torch_file(module: nn.Module, shape: Sequence[int]) -> bytes:
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


def _onnx_file(module: nn.Module, shape: Sequence[int]) -> bytes:
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
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()


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


# safetensors with a card: encoding


def _card_file(module: nn.Module, shape: Sequence[int], format: str, values: Values) -> bytes:
    stored: dict[str, Tensor] = {}
    entries: dict[str, Any] = {}
    layers = _layers_or_none(module)
    named = module if layers is None else nn.Sequential(layers)
    for name, tensor in named.state_dict().items():
        parts, entries[name] = _encode(name, tensor, format, values)
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


def _encode(name: str, tensor: Tensor, format: str, values: Values) -> tuple[Arrays, dict]:
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


# safetensors with a card: decoding


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
        tensors = {name: _decoded(name, entry, stored) for name, entry in card["tensors"].items()}
        unknown = set(stored) - _parts_of(card["tensors"])
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


def _parts_of(entries: Mapping[str, Any]) -> set[str]:
    suffixes = ("", ".mask", ".rows", ".columns", ".values", ".scale")
    return {name + suffix for name in entries for suffix in suffixes}


def _decoded(name: str, entry: Mapping[str, Any], stored: Mapping[str, Tensor]) -> Tensor:
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
