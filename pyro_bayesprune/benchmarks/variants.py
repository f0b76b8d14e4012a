"""Ways to deploy a network: the file format, the engine that runs it, and the required memory."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from pyro_bayesprune.benchmarks.kernels import Predict, with_kernel
from pyro_bayesprune.export.files import read, write
from pyro_bayesprune.export.graphs import onnx_session


class Variant(NamedTuple):
    """One way to store and run a network."""

    name: str
    network: str  # dense, baked or compacted
    format: str  # see `pyro_bayesprune.export.write`
    engine: str  # "dense", a kernel of `SPARSE`, "torch.export" or "ONNX Runtime"


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


def runner(engine: str, path: Path, net: nn.Module | None = None) -> Predict:
    """Return a function from inputs (n, ...) to the outputs of the network in a file, on the CPU.

    Load a ``torch.export`` file only where it was written: it may contain pickle.
    """
    if engine == "ONNX Runtime":
        session = onnx_session(path)
        return lambda x: torch.from_numpy(session.run(None, {"input": x.numpy()})[0])
    if engine == "torch.export":
        return torch.export.load(path).module()
    return with_kernel(read(path, net), engine)


def write_variants(
    networks: Mapping[str, nn.Module], shape: Sequence[int], folder: Path
) -> dict[str, Path]:
    """Write a file for each variant; return the paths by the name of the variant."""
    paths = {}
    for variant in VARIANTS:
        suffix = ".pt2" if variant.format == "torch" else ".onnx"
        path = folder / (variant.name.replace(" ", "_").replace(",", "") + suffix)
        write(networks[variant.network], path, shape, format=variant.format)  # type: ignore[arg-type]
        paths[variant.name] = path
    return paths


def peak_memory(engine: str, path: Path, batch: Sequence[int]) -> int | None:
    """Return the peak memory (bytes) of reading and running a file in a new process, over imports.

    It is None if the platform does not report it (not Linux).
    """
    arguments = json.dumps([engine, str(path), list(batch)])
    command = [sys.executable, "-m", "pyro_bayesprune.benchmarks.variants", arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"measuring the memory of {path} failed: {done.stderr[-500:]}")
    return json.loads(done.stdout)


def _measure_memory(engine: str, path: str, batch: list[int]) -> int | None:
    if sys.platform != "linux":
        return None
    import onnx  # noqa: F401  (the memory of imports is not counted)
    import onnxruntime  # noqa: F401
    import scipy.sparse  # noqa: F401

    torch.set_num_threads(1)
    nn.Linear(64, 64)(torch.zeros(64, 64))  # allocates the libraries' own buffers
    before = _process_status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    run = runner(engine, Path(path))
    with torch.inference_mode():
        for _ in range(3):
            run(torch.zeros(*batch))
    return max(0, _process_status("VmHWM") - before)


def _process_status(key: str) -> int:
    """Return an entry of the process status of Linux in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


if __name__ == "__main__":  # in the new process of `peak_memory`
    print(json.dumps(_measure_memory(*json.loads(sys.argv[1]))))
