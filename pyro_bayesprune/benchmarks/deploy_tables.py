"""The tables of the deployment benchmark in Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from pyro_bayesprune._utils.tables import table_markdown
from pyro_bayesprune.benchmarks.deploy import MEMORY_BATCH, PARITY_IMAGES
from pyro_bayesprune.benchmarks.kernels import GAIN, SPARSE

MEBIBYTE = 2**20
VARIANTS_NOTE = (
    "The speed-up compares with the dense network in the same process: median over rounds "
    "[quartiles]. **No gain** means that the lower quartile is below "
    f"{GAIN}. Memory is the peak that reading and running a file at batch size {MEMORY_BATCH} adds "
    "to a new process after its imports. The difference is the largest absolute difference from "
    f"the outputs of the baked network on {PARITY_IMAGES} test inputs."
)
LAYERS_NOTE = (
    "Each kernel runs a Linear layer with its own zeros. The crossover is the smallest measured "
    "sparsity (random zeros, same shape) from which on the kernel is faster than the dense kernel. "
    "There is no sparse kernel for convolutions; compaction makes them faster."
)


def table(result: Mapping[str, Any]) -> str:
    """Return the tables of a result of `deploy_table` in Markdown."""
    variants = _variants_markdown(result["rows"], result["setting"]["batches"])
    layers, formats = _layers_markdown(result["layers"]), _formats_markdown(result["formats"])
    return "\n\n".join([variants, VARIANTS_NOTE, layers, LAYERS_NOTE, formats]) + "\n"


def _variants_markdown(rows: Sequence[Mapping[str, Any]], batches: Sequence[int]) -> str:
    timed = [name for batch in batches for name in (f"ms, batch {batch}", "speed-up")]
    others = ["bytes", "times smaller", "memory, MiB", "accuracy", "difference"]
    lines = []
    for row in rows:
        cells = [row["name"], row["format"]]
        for milliseconds, speeds in zip(row["milliseconds"], row["speed_up"], strict=True):
            cells += [_interval(milliseconds, 3), _gain(speeds, row)]
        memory = row["peak_memory"]
        cells += [f"{row['bytes']:,}", f"{row['times_smaller']:.1f}"]
        cells += [or_dash(memory and memory / MEBIBYTE, ".1f"), or_dash(row["accuracy"], ".4f")]
        lines.append([*cells, or_dash(row["difference"], ".1e")])
    return table_markdown(["variant", "file", *timed, *others], lines)


def _interval(numbers: Sequence[float], digits: int) -> str:
    middle, low, high = (f"{n:.{digits}f}" for n in numbers)
    return f"{middle} [{low}, {high}]"


def _gain(numbers: Sequence[float], row: Mapping[str, Any]) -> str:
    if row["network"] == "dense":
        return "1"
    return _interval(numbers, 2) + ("" if numbers[1] >= GAIN else " **no gain**")


def or_dash(number: float | None, form: str) -> str:
    """Return a formatted number, or a dash for None."""
    return "–" if number is None else f"{number:{form}}"


def _layers_markdown(layers: Sequence[Mapping[str, Any]]) -> str:
    head = ["layer", "shape", "batch", "sparsity"]
    head += [name for kernel in SPARSE for name in (f"{kernel}: speed-up", "crossover")]
    lines = []
    for row in layers:
        shape = " × ".join(map(str, row["shape"]))
        cells = [row["layer"], shape, str(row["batch"]), f"{row['sparsity']:.3f}"]
        for kernel in SPARSE:
            cells += [_interval(row["speed_up"][kernel], 2), or_dash(row["crossover"][kernel], "g")]
        best = row["recommended"]
        lines.append([*cells, "dense (no gain)" if best == "dense" else best])
    return table_markdown([*head, "recommended"], lines)


def _formats_markdown(formats: Sequence[Mapping[str, Any]]) -> str:
    columns = {"network": "", "format": "", "values": "", "bytes": ",", "times_smaller": ".1f"}
    columns |= {"difference": ".1e", "accuracy": ".4f"}
    lines = [[f"{row[name]:{form}}" for name, form in columns.items()] for row in formats]
    return table_markdown([name.replace("_", " ") for name in columns], lines)
