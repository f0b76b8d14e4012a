"""Savings of a pruned network in practice: latency, file size and accuracy.

Each variant is written to a file, read back and run, as a user would do. The measurements of the
variants alternate in one process. All engines use one thread.
"""

import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pyro_bayesprune._utils.provenance import provenance
from pyro_bayesprune._utils.tables import table_markdown
from pyro_bayesprune.benchmarks.kernels import with_kernel
from pyro_bayesprune.benchmarks.timing import QUARTILES, seconds
from pyro_bayesprune.export.chain import NotAChain, chain
from pyro_bayesprune.export.compaction import compact
from pyro_bayesprune.export.files import read, write
from pyro_bayesprune.export.graphs import onnx_session

GAIN = 1.05  # a speed-up counts as a gain if its lower quartile is at least this
PARITY_IMAGES = 1000
NOTE = (
    "The speed-up compares with the dense network in the same process: median over rounds "
    f"[quartiles]. **No gain** means that the lower quartile is below {GAIN}. The difference is "
    "the largest absolute difference from the outputs of the baked network on "
    f"{PARITY_IMAGES} test inputs."
)
Networks = Mapping[str, nn.Module]  # dense, baked and compacted
Predict = Callable[[Tensor], Tensor]


class Variant(NamedTuple):
    """One way to store and run a network."""

    name: str
    network: str  # dense, baked or compacted
    format: str  # see `pyro_bayesprune.export.write`
    engine: str  # "dense", a kernel of `kernels.SPARSE`, "torch.export" or "ONNX Runtime"


VARIANTS = (
    Variant("dense", "dense", "safetensors", "dense"),
    Variant("baked", "baked", "sparse", "dense"),
    Variant("baked, torch CSR", "baked", "csr", "torch CSR"),
    Variant("baked, SciPy CSR", "baked", "csr", "SciPy CSR"),
    Variant("baked, torch.export", "baked", "torch", "torch.export"),
    Variant("baked, ONNX Runtime", "baked", "onnx", "ONNX Runtime"),
    Variant("compacted", "compacted", "sparse", "dense"),
    Variant("compacted, torch CSR", "compacted", "csr", "torch CSR"),
    Variant("compacted, ONNX Runtime", "compacted", "onnx", "ONNX Runtime"),
)


@dataclass(frozen=True)
class Setting:
    """How to measure."""

    batches: tuple[int, ...] = (1, 64, 512)
    rounds: int = 41  # measurements of each variant
    seconds: float = 0.005  # duration of one; short, so that other processes disturb few of them


def deploy_table(
    module: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    dense: nn.Module | None = None,
    setting: Setting = Setting(),  # noqa: B008  (frozen)
) -> dict[str, Any]:
    """Measure all ways to deploy a pruned network.

    Args:
        module: the baked network, on the CPU.
        x: test inputs (n, ...), on the CPU.
        y: their classes (n,).
        dense: the unpruned network, for its accuracy. By default ``module`` takes its place,
            which has the same size and speed when it is stored and run like a dense network.
        setting: how to measure.

    Returns:
        JSON values: ``rows`` (one for each variant), ``formats`` (sizes and accuracy of the files),
        ``setting``, ``versions`` and ``machine``.

    Raises:
        ValueError: if the targets are no classes, so that there is no accuracy.
    """
    if y.is_floating_point() or y.dim() != 1:
        raise ValueError(f"targets must be classes (n,), got {y.dtype} of shape {tuple(y.shape)}")
    shape, threads = tuple(x.shape[1:]), torch.get_num_threads()
    networks = {"dense": module if dense is None else dense}
    networks |= {"baked": module, "compacted": compact(module, shape)}
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            # If a file has no architecture, it is read with the module.
            warnings.filterwarnings("ignore", "the file contains no architecture")
            rows = list(_variant_rows(networks, Path(folder), x, y, setting))
            formats = list(_format_rows(networks, Path(folder) / "network", x, y))
    finally:
        torch.set_num_threads(threads)
    if dense is None:
        rows[0]["accuracy"] = None  # that of the dense network is not known
    results = {"rows": rows, "formats": formats, "setting": asdict(setting)}
    return results | provenance("scipy", "onnx", "onnxruntime")


def _variant_rows(
    networks: Networks, folder: Path, x: Tensor, y: Tensor, setting: Setting
) -> Iterator[dict[str, Any]]:
    """Yield a row for each variant: latency, file size, accuracy and difference."""
    runs, sizes = {}, {}
    for number, (name, network, format, engine) in enumerate(VARIANTS):
        path = folder / f"{number}{'.pt2' if format == 'torch' else '.onnx'}"
        sizes[name] = write(networks[network], path, x.shape[1:], format=format)  # type: ignore[arg-type]
        runs[name] = runner(engine, path, networks[network])
    times = []
    with torch.inference_mode():
        for size in setting.batches:
            batch = x[torch.arange(size) % len(x)].contiguous()
            calls = {name: partial(run, batch) for name, run in runs.items()}
            # A measurement repeats the call, so the weights are in the caches, as in a service.
            times.append(seconds(calls, setting.rounds, setting.seconds))
    expected = _outputs(networks["baked"], x)
    for variant in VARIANTS:
        name = variant.name
        row = variant._asdict() | {
            "milliseconds": [(1e3 * t[name]).quantile(QUARTILES).tolist() for t in times],
            "speed_up": [(t["dense"] / t[name]).quantile(QUARTILES).tolist() for t in times],
            "bytes": sizes[name],
            "times_smaller": sizes["dense"] / sizes[name],
            **_quality(runs[name], x, y, expected),
        }
        yield row | ({"difference": None} if name == "dense" else {})


def runner(engine: str, path: Path, network: nn.Module) -> Predict:
    """Return a function from inputs (n, ...) to the outputs of the network in a file, on the CPU.

    Load a ``torch.export`` file only where it was written: it may contain pickle.
    """
    if engine == "ONNX Runtime":
        session = onnx_session(path)
        return lambda x: torch.from_numpy(session.run(None, {"input": x.numpy()})[0])
    if engine == "torch.export":
        return torch.export.load(path).module()
    return with_kernel(_read(path, network), engine)


def _format_rows(networks: Networks, path: Path, x: Tensor, y: Tensor) -> Iterator[dict[str, Any]]:
    """Yield a row for each network, safetensors format and type of values."""
    shape, expected = tuple(x.shape[1:]), _outputs(networks["baked"], x)
    dense_size = write(networks["dense"], path, shape)
    choices = ("baked", "compacted"), ("safetensors", "csr", "sparse"), ("float32", "float16")
    for name, format, values in product(*choices):
        size = write(networks[name], path, shape, format=format, values=values)  # type: ignore[arg-type]
        sizes = {"bytes": size, "times_smaller": dense_size / size}
        row = {"network": name, "format": format, "values": values}
        yield row | sizes | _quality(_read(path, networks[name]), x, y, expected)


def _read(path: Path, network: nn.Module) -> nn.Module:
    """Return the network in a file. If it is not a known chain, reading requires the module."""
    try:
        chain(network)
    except NotAChain:
        return read(path, network)
    return read(path)


def _quality(run: Predict, x: Tensor, y: Tensor, expected: Tensor) -> dict[str, float]:
    """Return the accuracy, and the largest difference from the outputs of the baked network."""
    outputs = _outputs(run, x)
    return {
        "accuracy": (outputs.argmax(1) == y).double().mean().item(),
        "difference": (outputs - expected)[:PARITY_IMAGES].abs().max().item(),
    }


@torch.inference_mode()
def _outputs(run: Predict, x: Tensor) -> Tensor:
    """Return the outputs (n, classes) for inputs (n, ...), 500 at a time."""
    return torch.cat([run(chunk) for chunk in x.split(500)])


def table(result: Mapping[str, Any]) -> str:
    """Return the tables of a result of `deploy_table` in Markdown."""
    batches = [(f"ms, batch {size}", "speed-up") for size in result["setting"]["batches"]]
    sizes = ["bytes", "times smaller", "accuracy", "difference"]
    head = ["variant", "file", *(name for pair in batches for name in pair), *sizes]
    variants = table_markdown(head, [_variant_texts(row) for row in result["rows"]])
    keys = ["network", "format", "values"]
    rows = [[*(row[key] for key in keys), *_size_texts(row)] for row in result["formats"]]
    return "\n\n".join([variants, NOTE, table_markdown([*keys, *sizes], rows)]) + "\n"


def _variant_texts(row: Mapping[str, Any]) -> list[str]:
    cells = [row["name"], row["format"]]
    for times, speed_up in zip(row["milliseconds"], row["speed_up"], strict=True):
        cells += [_interval(times, 3), "1" if row["network"] == "dense" else _gain(speed_up)]
    return cells + _size_texts(row)


def _size_texts(row: Mapping[str, Any]) -> list[str]:
    forms = {"bytes": ",", "times_smaller": ".1f", "accuracy": ".4f", "difference": ".1e"}
    return ["–" if row[name] is None else f"{row[name]:{form}}" for name, form in forms.items()]


def _gain(speed_up: Sequence[float]) -> str:
    return _interval(speed_up, 2) + ("" if speed_up[1] >= GAIN else " **no gain**")


def _interval(numbers: Sequence[float], digits: int) -> str:
    middle, low, high = (f"{n:.{digits}f}" for n in numbers)
    return f"{middle} [{low}, {high}]"
