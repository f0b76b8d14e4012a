"""What a pruned network really saves: latency, bytes, memory and accuracy, file by file.

Every variant is written, read back and run as a user would; variants alternate in one process.
``python -m pyro_bayesprune.bench_deploy`` trains the paper's FCN and makes ``reports/deploy``.
"""

import argparse
import copy
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from itertools import product
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor, nn

from pyro_bayesprune.compaction import NotAChain, chain
from pyro_bayesprune.display import table_markdown
from pyro_bayesprune.export import bake, compact, onnx_session, read, write

Run = Callable[[Tensor], Tensor]
GAIN = 1.05  # a speed-up counts from here on, at the lower quartile
SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
PARITY_IMAGES = 1000
MEBIBYTE = 2**20


@dataclass(frozen=True)
class Setting:
    """How to measure.

    Args:
        batches: batch sizes.
        rounds: how often each variant has its turn; medians and quartiles are over rounds.
        seconds: about how long a turn lasts, at least a call.
        threads: of every engine (SciPy's kernels have one).
        memory: whether to start a fresh process for each variant to measure its memory.
    """

    batches: tuple[int, ...] = (1, 64, 512)
    rounds: int = 41
    seconds: float = 0.005  # short, so that what else the machine does hits few of them
    threads: int = 1
    memory: bool = True


# Sparse kernels


class TorchCSR(nn.Module):
    """A Linear layer whose weight is a torch CSR tensor: inputs (n, in), outputs (n, out)."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state")
            self.weight = linear.weight.detach().to_sparse_csr()
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's outputs."""
        y = (self.weight @ x.T).T
        return y if self.bias is None else y + self.bias


class SciPyCSR(nn.Module):
    """A Linear layer whose weight is a SciPy CSR array: inputs (n, in), outputs (n, out)."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        from scipy.sparse import csr_array

        self.weight = csr_array(linear.weight.detach().numpy())
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's outputs."""
        y = torch.from_numpy((self.weight @ x.numpy().T).T)
        return y if self.bias is None else y + self.bias


KERNELS: dict[str, Callable[[nn.Linear], nn.Module]] = {
    "dense": lambda linear: linear,
    "torch CSR": TorchCSR,
    "SciPy CSR": SciPyCSR,
}


def with_kernels(module: nn.Module, kernels: Mapping[str, str]) -> nn.Module:
    """Return a copy with the Linear layers that ``kernels`` names run by a kernel of `KERNELS`.

    Args:
        module: a network on the CPU.
        kernels: a kernel's name for each layer's name, as in ``named_modules()``.
    """
    module = copy.deepcopy(module).eval()
    for name, kernel in kernels.items():
        parent, _, child = name.rpartition(".")
        linear = module.get_submodule(name)
        module.get_submodule(parent).register_module(child, KERNELS[kernel](linear))  # type: ignore[arg-type]
    return module


def linear_layers(module: nn.Module) -> dict[str, nn.Linear]:
    """Return a network's Linear layers by name."""
    return {n: m for n, m in module.named_modules() if isinstance(m, nn.Linear)}


# Variants


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


def runner(engine: str, path: Path, threads: int = 1, net: nn.Module | None = None) -> Run:
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


# Time and memory


@torch.inference_mode()
def latencies(runs: Mapping[str, Run], x: Tensor, setting: Setting) -> dict[str, list[float]]:
    """Return the seconds a call takes in each round, by name; the runs alternate.

    A turn repeats the call for about ``setting.seconds`` (weights stay in the caches, as in a
    service) and counts its mean. Some calls, which also find their number, come before the first.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    calls = {}
    for name, run in runs.items():
        fastest = min(_seconds(run, x, 1) for _ in range(5))
        calls[name] = max(1, round(setting.seconds / fastest))
    for _ in range(setting.rounds):
        for name, run in runs.items():
            times[name].append(_seconds(run, x, calls[name]))
    return times


def _seconds(run: Run, x: Tensor, calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        run(x)
    return (time.perf_counter() - started) / calls


def spread(numbers: Sequence[float]) -> list[float]:
    """Return the median and both quartiles."""
    low, _, high = quantiles(numbers, n=4, method="inclusive")
    return [median(numbers), low, high]


def speed_up(dense: Sequence[float], other: Sequence[float]) -> list[float]:
    """Return median and quartiles, over rounds, of how many times faster ``other`` is."""
    return spread([a / b for a, b in zip(dense, other, strict=True)])


def peak_memory(engine: str, path: Path, batch: Sequence[int], threads: int = 1) -> int | None:
    """Return the bytes that reading and running a file adds, at most, to a fresh process.

    What the imports take is not counted. None where the platform does not tell (not Linux).

    Raises:
        RuntimeError: if the process fails, with its last words.
    """
    arguments = json.dumps([engine, str(path), list(batch), threads])
    # Not __name__: that is __main__ where this module is the command.
    command = [sys.executable, "-m", "pyro_bayesprune.bench_deploy", "--measure-memory", arguments]
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
    before = _status("VmRSS")
    if before is None:
        return None
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports
    run = runner(engine, Path(path), threads)
    with torch.inference_mode():
        for _ in range(3):
            run(torch.zeros(*batch))
    after = _status("VmHWM")
    return None if after is None else max(0, after - before)


def _status(key: str) -> int | None:
    """Return an entry of Linux' process status in bytes."""
    path = Path("/proc/self/status")
    for line in path.read_text().splitlines() if path.exists() else ():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return None


# The tables' content


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
        their parity), ``setting`` and ``machine``; JSON values only.
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
        "machine": machine(),
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
        v.name: runner(v.engine, paths[v.name], setting.threads, _needed(networks[v.network]))
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
        if setting.memory and _needed(networks[variant.network]) is None:
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


def _needed(module: nn.Module) -> nn.Module | None:
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
def outputs(run: Run, x: Tensor) -> Tensor:
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
        found = outputs(read(path, _needed(networks[network])), x)
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


def layer_rows(module: nn.Module, batch: int, setting: Setting) -> list[dict[str, Any]]:
    """Return a row for each Linear layer: kernels' speed at its own zeros, and their crossover.

    A crossover is the smallest sparsity, of random zeros in a layer of the same shape, from which
    on the kernel is faster than the dense one at all that were tried; None where there is none.
    """
    crossovers: dict[tuple[int, ...], dict[str, float | None]] = {}
    rows = []
    for name, linear in linear_layers(module).items():
        shape = tuple(linear.weight.shape)
        if shape not in crossovers:
            crossovers[shape] = _crossovers(shape, batch, setting)
        speeds = kernel_speeds(linear, batch, setting)
        best = max(speeds, key=lambda kernel: speeds[kernel][0])
        rows.append(
            {
                "layer": name,
                "shape": list(shape),
                "batch": batch,
                "sparsity": (linear.weight == 0).double().mean().item(),
                "speed_up": speeds,
                "crossover": crossovers[shape],
                "recommended": best if speeds[best][1] >= GAIN else "dense",
            }
        )
    return rows


def kernel_speeds(linear: nn.Linear, batch: int, setting: Setting) -> dict[str, list[float]]:
    """Return how many times faster than dense each sparse kernel runs a layer: median, quartiles.

    Args:
        linear: the layer.
        batch: number of inputs.
        setting: how to measure; in half as many rounds.
    """
    x = torch.randn(batch, linear.in_features, generator=torch.Generator().manual_seed(0))
    runs = {name: kernel(linear) for name, kernel in KERNELS.items()}
    times = latencies(runs, x, replace(setting, rounds=max(3, setting.rounds // 2)))
    return {name: speed_up(times["dense"], t) for name, t in times.items() if name != "dense"}


def _crossovers(shape: tuple[int, ...], batch: int, setting: Setting) -> dict[str, float | None]:
    found: dict[str, float | None] = dict.fromkeys((k for k in KERNELS if k != "dense"), None)
    open_ones, generator = set(found), torch.Generator().manual_seed(0)
    for level in reversed(SPARSITIES):
        linear = nn.utils.skip_init(nn.Linear, shape[1], shape[0])
        weight = torch.randn(shape, generator=generator)
        linear.weight.data = weight * (torch.rand(shape, generator=generator) >= level)
        linear.bias.data.zero_()
        speeds = kernel_speeds(linear, batch, setting)
        open_ones = {kernel for kernel in open_ones if speeds[kernel][0] > 1}
        found |= dict.fromkeys(open_ones, level)
    return found


def machine() -> dict[str, Any]:
    """Return processor, platform, versions, the code's commit, and how busy the machine is."""
    from pyro_bayesprune.experiment import provenance

    found = provenance()
    packages = ("scipy", "onnx", "onnxruntime")
    return {
        "processor": _processor(),
        **found["machine"],
        "versions": found["versions"] | {p: version(p) for p in packages},
        "commit": found["commit"],
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


# Markdown


def table(result: Mapping[str, Any]) -> str:
    """Return the tables of `deploy_table`'s result as Markdown."""
    batches = result["setting"]["batches"]
    parts = [
        _variants_markdown(result["rows"], batches),
        "Speed-up is over dense in the same process: median over rounds [quartiles]; **no gain** "
        f"where the lower quartile is below {GAIN}. Memory is what reading and running a file at "
        "batch 64 adds to a fresh process over its imports. Difference: largest absolute "
        f"difference of outputs from the baked network's on {PARITY_IMAGES} test inputs.",
        _layers_markdown(result["layers"]),
        "Kernels on each Linear layer's own zeros; crossover: the smallest sparsity tried (random "
        "zeros, same shape) from which on the kernel beats the dense one. Convolutions have no "
        "sparse kernel here: compaction is what makes them faster.",
        _formats_markdown(result["formats"]),
    ]
    return "\n\n".join(parts) + "\n"


def _variants_markdown(rows: Sequence[Mapping[str, Any]], batches: Sequence[int]) -> str:
    head = ["variant", "file"]
    for batch in batches:
        head += [f"ms, batch {batch}", "speed-up"]
    head += ["bytes", "times smaller", "memory, MiB", "accuracy", "difference"]
    lines = []
    for row in rows:
        cells = [row["name"], row["format"]]
        for milliseconds, speeds in zip(row["milliseconds"], row["speed_up"], strict=True):
            cells += [_interval(milliseconds, 3), _gain(speeds, row)]
        memory = row["peak_memory"]
        cells += [f"{row['bytes']:,}", f"{row['times_smaller']:.1f}"]
        cells += [_or_dash(memory and memory / MEBIBYTE, ".1f"), _or_dash(row["accuracy"], ".4f")]
        lines.append([*cells, _or_dash(row["difference"], ".1e")])
    return table_markdown(head, lines)


def _interval(numbers: Sequence[float], digits: int) -> str:
    middle, low, high = (f"{n:.{digits}f}" for n in numbers)
    return f"{middle} [{low}, {high}]"


def _gain(numbers: Sequence[float], row: Mapping[str, Any]) -> str:
    if row["network"] == "dense":
        return "1"
    return _interval(numbers, 2) + ("" if numbers[1] >= GAIN else " **no gain**")


def _or_dash(number: float | None, form: str) -> str:
    return "–" if number is None else f"{number:{form}}"


def _layers_markdown(layers: Sequence[Mapping[str, Any]]) -> str:
    kernels = [name for name in KERNELS if name != "dense"]
    head = ["layer", "shape", "batch", "sparsity"]
    head += [part for kernel in kernels for part in (f"{kernel}: speed-up", "crossover")]
    lines = []
    for row in layers:
        shape = " × ".join(map(str, row["shape"]))
        cells = [row["layer"], shape, str(row["batch"]), f"{row['sparsity']:.3f}"]
        for kernel in kernels:
            crossover = row["crossover"][kernel]
            cells += [_interval(row["speed_up"][kernel], 2), _or_dash(crossover, "g")]
        kept = row["recommended"] == "dense"
        lines.append([*cells, "dense (no gain)" if kept else row["recommended"]])
    return table_markdown([*head, "recommended"], lines)


def _formats_markdown(formats: Sequence[Mapping[str, Any]]) -> str:
    head = ["network", "format", "values", "bytes", "times smaller", "difference", "accuracy"]
    lines = [
        [
            *(row[key] for key in ("network", "format", "values")),
            f"{row['bytes']:,}",
            f"{row['times_smaller']:.1f}",
            f"{row['difference']:.1e}",
            f"{row['accuracy']:.4f}",
        ]
        for row in formats
    ]
    return table_markdown(head, lines)


# The command


def report(runs: str | Path, out: str | Path, *, data_dir: str | Path | None, epochs: int) -> None:
    """Train the paper's FCN on MNIST (dense, 99% of weights, 90% of units) and write the tables.

    Args:
        runs: folder of the run folders; what is there already is not trained again.
        out: folder of ``README.md`` and a JSON file for each network.
        data_dir: folder of the data files; see `load_dataset`.
        epochs: of each training.
    """
    from pyro_bayesprune.config import PRESETS, Config
    from pyro_bayesprune.data import load_dataset
    from pyro_bayesprune.experiment import run

    mle = {"objective": "mle", "gate": "always", "epochs": epochs, "dataset": "mnist"}
    base = PRESETS["paper"] | mle
    networks = {
        "dense": Config(**base | {"sparsity": 0.0}),
        "99% of the weights": Config(**base | {"sparsity": 0.99}),
        "90% of the units": Config(**base | {"sparsity": 0.9, "scope": "unit"}),
    }
    done = {name: run(config, out=runs, data_dir=data_dir) for name, config in networks.items()}
    data = load_dataset("mnist", data_dir, validation=0)
    if data.test_x is None or data.test_y is None:
        raise ValueError("the data have no test part")
    dense = bake(done.pop("dense"))
    parts = []
    for name, result in done.items():
        measured = deploy_table(bake(result), data.test_x, data.test_y, dense=dense)
        measured["config"] = result.config.to_dict()
        file = Path(out) / (name.replace("%", "").replace(" ", "_") + ".json")
        _save(file, json.dumps(measured, indent=1))
        parts.append(f"## {name}\n\n{findings(measured)}\n\n{table(measured)}")
    _save(Path(out) / "README.md", "\n".join([_title(measured, epochs), *parts]))


def _save(path: Path, text: str) -> None:
    from pyro_bayesprune.runs import write_atomically

    write_atomically(path, text.encode())


def _title(measured: Mapping[str, Any], epochs: int) -> str:
    config, where, setting = measured["config"], measured["machine"], measured["setting"]
    versions = ", ".join(f"{name} {v}" for name, v in where["versions"].items())
    return (
        "# What a pruned network really saves\n\n"
        f"`python -m pyro_bayesprune.bench_deploy --epochs {epochs}`, seed {config['seed']}. "
        f"{config['dataset']}, {config['network']} of hidden layers {tuple(config['hidden'])}, "
        f"trained without a prior for {epochs} epochs and pruned by magnitude at the end of the "
        f"first. Measured on {where['processor']} ({where['cpus']} CPUs, {where['platform']}) with "
        f"{setting['threads']} thread and {setting['rounds']} rounds; {versions}; commit "
        f"{where['commit']}. The load average was {_or_dash(where['load'], '.1f')}: above the "
        "number of CPUs, milliseconds are those of a busy machine; speed-ups compare turns that "
        "alternate, so the load is much the same for both.\n"
    )


def findings(measured: Mapping[str, Any]) -> str:
    """Return in sentences what the numbers of one network say, good and bad (needs batch 64)."""
    rows = {row["name"]: row for row in measured["rows"]}
    exact = [f for f in measured["formats"] if f["values"] == "float32"]
    narrow = [f for f in measured["formats"] if f["values"] != "float32"]
    smallest = max(exact, key=lambda f: f["times_smaller"])
    differences = [r["difference"] for r in (*rows.values(), *exact) if r["difference"] is not None]
    points = max(abs(f["accuracy"] - f["accuracy_baked"]) for f in narrow) * 100
    batch = measured["setting"]["batches"].index(64)
    at64 = {name: row["speed_up"][batch] for name, row in rows.items() if name != "dense"}
    faster = {name: s for name, s in at64.items() if s[1] >= GAIN}
    best = max(faster, key=lambda name: faster[name][0], default=None)
    gains = "No variant is faster than dense at batch 64: no gain."
    if best:
        none = "; ".join(sorted(set(at64) - set(faster))) or "none"
        gains = (
            f"At batch 64 the fastest is *{best}*, {faster[best][0]:.1f} times dense; *compacted* "
            f"in PyTorch is {at64['compacted'][0]:.1f} times dense. No gain there: {none}."
        )
    return (
        f"Accuracy {rows['baked']['accuracy']:.4f} (dense: {rows['dense']['accuracy']:.4f}). "
        f"The smallest exact file ({smallest['network']}, {smallest['format']}) has "
        f"{smallest['bytes']:,} bytes, {smallest['times_smaller']:.1f} times less than the dense "
        f"float32 one; *baked* as it is, {rows['baked']['times_smaller']:.1f} times. Exact exports "
        f"differ by at most {max(differences):.1e} from the baked network, float16 and int8 by at "
        f"most {points:.2f} points of accuracy. {gains}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m pyro_bayesprune.bench_deploy")
    parser.add_argument("--runs", default="runs", help="folder of the run folders")
    parser.add_argument("--out", default="reports/deploy", help="folder of the tables")
    parser.add_argument("--data-dir", default=None, help="folder of the data files")
    parser.add_argument("--epochs", type=int, default=5, help="of each of the three trainings")
    parser.add_argument("--measure-memory", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.measure_memory:
        print(json.dumps(_measure_memory(*json.loads(given.measure_memory))))
    else:
        report(given.runs, given.out, data_dir=given.data_dir, epochs=given.epochs)


if __name__ == "__main__":
    main()
