"""The tables of the deployment benchmark as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from pyro_bayesprune._utils.tables import table_markdown
from pyro_bayesprune.benchmarks.deploy import PARITY_IMAGES
from pyro_bayesprune.benchmarks.kernels import GAIN, KERNELS

MEBIBYTE = 2**20


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
        cells += [or_dash(memory and memory / MEBIBYTE, ".1f"), or_dash(row["accuracy"], ".4f")]
        lines.append([*cells, or_dash(row["difference"], ".1e")])
    return table_markdown(head, lines)


def _interval(numbers: Sequence[float], digits: int) -> str:
    middle, low, high = (f"{n:.{digits}f}" for n in numbers)
    return f"{middle} [{low}, {high}]"


def _gain(numbers: Sequence[float], row: Mapping[str, Any]) -> str:
    if row["network"] == "dense":
        return "1"
    return _interval(numbers, 2) + ("" if numbers[1] >= GAIN else " **no gain**")


def or_dash(number: float | None, form: str) -> str:
    """Return a number in a format, or a dash where there is none."""
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
            cells += [_interval(row["speed_up"][kernel], 2), or_dash(crossover, "g")]
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
