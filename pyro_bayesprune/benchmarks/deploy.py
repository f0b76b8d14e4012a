"""Savings of a pruned network in practice: latency, file size, memory and accuracy.

Each variant is written to a file, read back and run, as a user would do. The measurements of the
variants alternate in one process. All engines use one thread.
"""

import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyro_bayesprune._utils.provenance import load_average, provenance
from pyro_bayesprune.benchmarks import kernels
from pyro_bayesprune.benchmarks.kernels import Predict, Setting
from pyro_bayesprune.benchmarks.timing import QUARTILES
from pyro_bayesprune.benchmarks.variants import VARIANTS, peak_memory, runner, write_variants
from pyro_bayesprune.export.chain import NotAChain, chain
from pyro_bayesprune.export.compaction import compact
from pyro_bayesprune.export.files import read, write

PARITY_IMAGES = 1000
MEMORY_BATCH = 64
Networks = Mapping[str, nn.Module]  # dense, baked and compacted


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
        JSON values: ``rows`` (one for each variant), ``layers`` (kernels and their crossovers),
        ``formats`` (sizes and accuracy of the files), ``setting``, ``load`` (average number of
        running processes), ``versions`` and ``machine``.
    """
    shape, threads = tuple(x.shape[1:]), torch.get_num_threads()
    networks = {"dense": module if dense is None else dense}
    networks |= {"baked": module, "compacted": compact(module, shape)}
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            # If a file has no architecture, it is read with the module.
            warnings.filterwarnings("ignore", "the file contains no architecture")
            paths = write_variants(networks, shape, Path(folder))
            rows = list(_variant_rows(networks, paths, x, y, setting))
            formats = list(_format_rows(networks, Path(folder) / "network", x, y))
        layers = [row for b in setting.batches for row in kernels.layer_rows(module, b, setting)]
    finally:
        torch.set_num_threads(threads)
    if dense is None:
        rows[0]["accuracy"] = None  # that of the dense network is not known
    results = {"rows": rows, "layers": layers, "formats": formats, "setting": asdict(setting)}
    return results | {"load": load_average()} | provenance("scipy", "onnx", "onnxruntime")


def _variant_rows(
    networks: Networks, paths: Mapping[str, Path], x: Tensor, y: Tensor, setting: Setting
) -> Iterator[dict[str, Any]]:
    """Yield a row for each variant: latency, file size, memory, accuracy and difference."""
    nets = {v.name: _required_to_read(networks[v.network]) for v in VARIANTS}
    runs = {v.name: runner(v.engine, paths[v.name], nets[v.name]) for v in VARIANTS}
    indices = [torch.arange(size) % len(x) for size in setting.batches]
    times = [kernels.latencies(runs, x[i].contiguous(), setting) for i in indices]
    sizes = {name: path.stat().st_size for name, path in paths.items()}
    expected = _outputs(networks["baked"], x)
    for variant in VARIANTS:
        name, memory = variant.name, None
        if setting.memory and nets[name] is None:
            memory = peak_memory(variant.engine, paths[name], (MEMORY_BATCH, *x.shape[1:]))
        row = variant._asdict() | {
            "milliseconds": [(1e3 * t[name]).quantile(QUARTILES).tolist() for t in times],
            "speed_up": [kernels.speed_up(t, name) for t in times],
            "bytes": sizes[name],
            "times_smaller": sizes["dense"] / sizes[name],
            "peak_memory": memory,
            **_quality(runs[name], x, y, expected),
        }
        yield row | ({"difference": None} if name == "dense" else {})


def _format_rows(networks: Networks, path: Path, x: Tensor, y: Tensor) -> Iterator[dict[str, Any]]:
    """Yield a row for each network, safetensors format and type of values."""
    shape, expected = tuple(x.shape[1:]), _outputs(networks["baked"], x)
    dense_size = write(networks["dense"], path, shape)
    choices = ("baked", "compacted"), ("safetensors", "csr", "sparse"), ("float32", "float16")
    for name, format, values in product(*choices):
        size = write(networks[name], path, shape, format=format, values=values)  # type: ignore[arg-type]
        sizes = {"bytes": size, "times_smaller": dense_size / size}
        run = read(path, _required_to_read(networks[name]))
        row = {"network": name, "format": format, "values": values}
        yield row | sizes | _quality(run, x, y, expected)


def _required_to_read(network: nn.Module) -> nn.Module | None:
    """Return the module that reading the network's file requires; None for a known chain."""
    try:
        chain(network)
    except NotAChain:
        return network
    return None


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
