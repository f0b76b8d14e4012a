"""What a pruned network really saves: latency, bytes, memory and accuracy, file by file.

Every variant is written, read back and run as a user would; variants alternate in one process.
"""

import copy
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
from pyro_bayesprune.benchmarks.kernels import (
    Predict,
    Setting,
    latencies,
    layer_rows,
    speed_up,
    spread,
)
from pyro_bayesprune.benchmarks.variants import VARIANTS, peak_memory, runner, write_variants
from pyro_bayesprune.export.chain import NotAChain, chain
from pyro_bayesprune.export.compaction import compact
from pyro_bayesprune.export.files import read, write

PARITY_IMAGES = 1000


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
        dense: the unpruned twin, for its accuracy; without it, the same network with random
            weights is timed.
        setting: how to measure.

    Returns:
        ``rows`` (a variant each), ``layers`` (kernels and their crossover), ``formats`` (files and
        their parity), ``setting``, ``load``, ``versions`` and ``machine``; JSON values only.
    """
    shape, threads = tuple(x.shape[1:]), torch.get_num_threads()
    networks = {"baked": module, "compacted": compact(module, shape)}
    networks["dense"] = dense if dense is not None else _random_twin(module)
    torch.set_num_threads(setting.threads)
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "the file holds no architecture")  # `_needed` has it
            paths = write_variants(networks, shape, Path(folder))
            rows = _rows(networks, paths, x, y, setting, accurate=dense is not None)
            formats = list(_formats(networks, x, y, Path(folder) / "network"))
        layers = [row for b in setting.batches for row in layer_rows(module, b, setting)]
    finally:
        torch.set_num_threads(threads)
    return {
        "rows": rows,
        "layers": layers,
        "formats": formats,
        "setting": asdict(setting),
        "load": load_average(),
        **provenance("scipy", "onnx", "onnxruntime"),
    }


def _random_twin(module: nn.Module) -> nn.Module:
    twin = copy.deepcopy(module)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in twin.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * 0.01)
    return twin


def _rows(
    networks: Mapping[str, nn.Module],
    paths: Mapping[str, Path],
    x: Tensor,
    y: Tensor,
    setting: Setting,
    *,
    accurate: bool,
) -> list[dict[str, Any]]:
    runs = {
        v.name: runner(
            v.engine, paths[v.name], setting.threads, needed_to_read(networks[v.network])
        )
        for v in VARIANTS
    }
    times = [latencies(runs, _batch(x, b), setting) for b in setting.batches]
    expected = outputs(networks["baked"], x)
    dense_bytes = paths["dense"].stat().st_size
    rows = []
    for variant in VARIANTS:
        found = outputs(runs[variant.name], x)
        is_dense = variant.network == "dense"
        size = paths[variant.name].stat().st_size
        memory = None
        if setting.memory and needed_to_read(networks[variant.network]) is None:
            batch = (64, *x.shape[1:])
            memory = peak_memory(variant.engine, paths[variant.name], batch, setting.threads)
        rows.append(
            {
                **asdict(variant),
                "milliseconds": [[1e3 * s for s in spread(t[variant.name])] for t in times],
                "speed_up": [speed_up(t["dense"], t[variant.name]) for t in times],
                "bytes": size,
                "times_smaller": dense_bytes / size,
                "peak_memory": memory,
                "parameters": sum(p.numel() for p in networks[variant.network].parameters()),
                "accuracy": _accuracy(found, y) if accurate or not is_dense else None,
                "difference": None if is_dense else _difference(found, expected),
            }
        )
    return rows


def needed_to_read(module: nn.Module) -> nn.Module | None:
    """Return the module that reading its file needs, None for chains of known layers."""
    try:
        chain(module)
    except NotAChain:
        return module
    return None


def _batch(x: Tensor, size: int) -> Tensor:
    """Return ``size`` inputs, repeated where there are fewer."""
    return x[torch.arange(size) % len(x)].contiguous()


@torch.inference_mode()
def outputs(run: Predict, x: Tensor) -> Tensor:
    """Return the outputs (n, classes) of inputs (n, ...), 500 at a time."""
    return torch.cat([run(chunk) for chunk in x.split(500)])


def _accuracy(found: Tensor, y: Tensor) -> float:
    return (found.argmax(1) == y).double().mean().item()


def _difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference of outputs on the first 1,000 inputs."""
    return (found - expected)[:PARITY_IMAGES].abs().max().item()


def _formats(
    networks: Mapping[str, nn.Module], x: Tensor, y: Tensor, path: Path
) -> Iterator[dict[str, Any]]:
    """Yield a row for each network, safetensors format and kind of values: bytes and parity."""
    shape = tuple(x.shape[1:])
    dense = write(networks["dense"], path, shape)
    expected = outputs(networks["baked"], x)
    kinds = product(("baked", "compacted"), ("safetensors", "bitmask", "csr", "sparse"))
    for (network, format), values in product(kinds, ("float32", "float16", "int8")):
        size = write(networks[network], path, shape, format=format, values=values)  # type: ignore[arg-type]
        found = outputs(read(path, needed_to_read(networks[network])), x)
        yield {
            "network": network,
            "format": format,
            "values": values,
            "bytes": size,
            "times_smaller": dense / size,
            "difference": _difference(found, expected),
            "accuracy": _accuracy(found, y),
            "accuracy_baked": _accuracy(expected, y),
        }
