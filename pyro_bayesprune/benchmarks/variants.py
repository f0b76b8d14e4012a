"""Ways to deploy a network: how it is stored, what runs it, and the memory that this takes."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from pyro_bayesprune.benchmarks.kernels import Predict, linear_layers, with_kernels
from pyro_bayesprune.export.files import read, write
from pyro_bayesprune.export.graphs import onnx_session


@dataclass(frozen=True)
class Variant:
    """One way to run a network: how it is stored, and what runs it.

    Args:
        name: what the table calls it.
        network: ``dense``, ``baked`` or ``compacted``.
        format: of its file, see `pyro_bayesprune.export.write`.
        engine: a kernel of `KERNELS`, ``torch.export`` or ``ONNX Runtime``.
    """

    name: str
    network: str
    format: str
    engine: str


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


def runner(engine: str, path: Path, threads: int = 1, net: nn.Module | None = None) -> Predict:
    """Return a function from inputs (n, ...) to outputs, both on the CPU, of a file.

    A ``torch.export`` file is only safe to load where it was just written: it may hold pickle.
    """
    if engine == "ONNX Runtime":
        session = onnx_session(path, threads)
        return lambda x: torch.from_numpy(session.run(None, {"input": x.numpy()})[0])
    if engine == "torch.export":
        return torch.export.load(path).module()
    module = read(path, net)
    return with_kernels(module, dict.fromkeys(linear_layers(module), engine))


def write_variants(
    networks: Mapping[str, nn.Module], shape: Sequence[int], folder: Path
) -> dict[str, Path]:
    """Write a file for each variant; return their paths by the variant's name."""
    paths = {}
    for variant in VARIANTS:
        suffix = ".pt2" if variant.format == "torch" else ".onnx"
        path = folder / (variant.name.replace(" ", "_").replace(",", "") + suffix)
        write(networks[variant.network], path, shape, format=variant.format)  # type: ignore[arg-type]
        paths[variant.name] = path
    return paths


def peak_memory(engine: str, path: Path, batch: Sequence[int], threads: int = 1) -> int | None:
    """Return the bytes that reading and running a file adds, at most, to a fresh process.

    What the imports take is not counted. None where the platform does not tell (not Linux).

    Raises:
        RuntimeError: if the process fails, with its last words.
    """
    arguments = json.dumps([engine, str(path), list(batch), threads])
    command = [sys.executable, "-m", "pyro_bayesprune.benchmarks.variants", arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"measuring the memory of {path} failed: {done.stderr[-500:]}")
    return json.loads(done.stdout)


def _measure_memory(engine: str, path: str, batch: list[int], threads: int) -> int | None:
    import onnx  # noqa: F401  (imports are not counted)
    import onnxruntime  # noqa: F401
    import scipy.sparse  # noqa: F401

    torch.set_num_threads(threads)
    nn.Linear(64, 64)(torch.zeros(64, 64))  # the libraries' own buffers
    before = _process_status("VmRSS")
    if before is None:
        return None
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports
    run = runner(engine, Path(path), threads)
    with torch.inference_mode():
        for _ in range(3):
            run(torch.zeros(*batch))
    after = _process_status("VmHWM")
    return None if after is None else max(0, after - before)


def _process_status(key: str) -> int | None:
    """Return an entry of Linux' process status in bytes."""
    path = Path("/proc/self/status")
    for line in path.read_text().splitlines() if path.exists() else ():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return None


if __name__ == "__main__":  # the fresh process of `peak_memory`
    print(json.dumps(_measure_memory(*json.loads(sys.argv[1]))))
