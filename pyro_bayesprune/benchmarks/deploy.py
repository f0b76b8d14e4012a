"""Savings of a pruned network in practice: latency, file size, memory and accuracy.

Each variant is written to a file, read back and run, as a user would do. The measurements of the
variants alternate in one process.
"""

import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyro_bayesprune._utils.provenance import load_average, provenance
from pyro_bayesprune.benchmarks import kernels
from pyro_bayesprune.benchmarks.kernels import Predict, Setting
from pyro_bayesprune.benchmarks.variants import VARIANTS, peak_memory, runner, write_variants
from pyro_bayesprune.export.chain import NotAChain, chain
from pyro_bayesprune.export.compaction import compact
from pyro_bayesprune.export.files import read, write

PARITY_IMAGES = 1000
MEMORY_BATCH = 64


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
    study = _Study(networks, x, y, setting, dense_is_trained=dense is not None)
    torch.set_num_threads(setting.threads)
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            # If a file has no architecture, the study reads it with the module.
            warnings.filterwarnings("ignore", "the file contains no architecture")
            rows = list(study.rows(write_variants(networks, shape, Path(folder))))
            formats = list(study.formats(Path(folder) / "network"))
        layers = [row for b in setting.batches for row in kernels.layer_rows(module, b, setting)]
    finally:
        torch.set_num_threads(threads)
    results = {"rows": rows, "layers": layers, "formats": formats, "setting": asdict(setting)}
    return results | {"load": load_average()} | provenance("scipy", "onnx", "onnxruntime")


@dataclass(frozen=True)
class _Study:
    """The networks ``dense``, ``baked`` and ``compacted``, test data, and how to measure."""

    networks: Mapping[str, nn.Module]
    x: Tensor
    y: Tensor
    setting: Setting
    dense_is_trained: bool

    def rows(self, paths: Mapping[str, Path]) -> Iterator[dict[str, Any]]:
        """Yield a row for each variant: latency, file size, memory, accuracy and difference."""
        nets = {v.name: self._needed_to_read(v.network) for v in VARIANTS}
        threads, batch = self.setting.threads, (MEMORY_BATCH, *self.x.shape[1:])
        runs = {v.name: runner(v.engine, paths[v.name], threads, nets[v.name]) for v in VARIANTS}
        indices = [torch.arange(size) % len(self.x) for size in self.setting.batches]
        times = [kernels.latencies(runs, self.x[i].contiguous(), self.setting) for i in indices]
        sizes = {name: path.stat().st_size for name, path in paths.items()}
        for variant in VARIANTS:
            name, quality = variant.name, self._quality(runs[variant.name])
            if variant.network == "dense":
                accuracy = quality["accuracy"] if self.dense_is_trained else None
                quality = {"accuracy": accuracy, "difference": None}
            memory = None
            if self.setting.memory and nets[name] is None:
                memory = peak_memory(variant.engine, paths[name], batch, threads)
            yield variant._asdict() | {
                "milliseconds": [[1e3 * s for s in kernels.spread(t[name])] for t in times],
                "speed_up": [kernels.speed_up(t["dense"], t[name]) for t in times],
                "bytes": sizes[name],
                "times_smaller": sizes["dense"] / sizes[name],
                "peak_memory": memory,
                **quality,
            }

    def formats(self, path: Path) -> Iterator[dict[str, Any]]:
        """Yield a row for each network, safetensors format and type of values."""
        shape = tuple(self.x.shape[1:])
        dense_size = write(self.networks["dense"], path, shape)
        choices = ("baked", "compacted"), ("safetensors", "csr", "sparse"), ("float32", "float16")
        for network, format, values in product(*choices):
            size = write(self.networks[network], path, shape, format=format, values=values)  # type: ignore[arg-type]
            sizes = {"bytes": size, "times_smaller": dense_size / size}
            row = {"network": network, "format": format, "values": values}
            yield row | sizes | self._quality(read(path, self._needed_to_read(network)))

    def _needed_to_read(self, network: str) -> nn.Module | None:
        """Return the module that reading a file of a network requires; None for a known chain."""
        try:
            chain(self.networks[network])
        except NotAChain:
            return self.networks[network]
        return None

    @cached_property
    def _expected(self) -> Tensor:
        return _outputs(self.networks["baked"], self.x)

    def _quality(self, run: Predict) -> dict[str, Any]:
        """Return the accuracy, and the largest difference from the outputs of the baked network."""
        outputs = _outputs(run, self.x)
        accuracy = (outputs.argmax(1) == self.y).double().mean().item()
        difference = (outputs - self._expected)[:PARITY_IMAGES].abs().max().item()
        return {"accuracy": accuracy, "difference": difference}


@torch.inference_mode()
def _outputs(run: Predict, x: Tensor) -> Tensor:
    """Return the outputs (n, classes) for inputs (n, ...), 500 at a time."""
    return torch.cat([run(chunk) for chunk in x.split(500)])
