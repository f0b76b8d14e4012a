"""The tables of the deployment benchmark in Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from pyro_bayesprune._utils.tables import table_markdown
from pyro_bayesprune.benchmarks.deploy import MEMORY_BATCH, PARITY_IMAGES
from pyro_bayesprune.benchmarks.kernels import GAIN, SPARSE

MEBIBYTE = 2**20
Row = list[tuple[str, str]]  # names of columns, which may occur twice, and texts
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
    variants = _table([_variant(row, result["setting"]["batches"]) for row in result["rows"]])
    layers = _table([_layer(row) for row in result["layers"]])
    formats = _table([_format(row) for row in result["formats"]])
    return "\n\n".join([variants, VARIANTS_NOTE, layers, LAYERS_NOTE, formats]) + "\n"


def _table(rows: Sequence[Row]) -> str:
    return table_markdown((name for name, _ in rows[0]), ([text for _, text in r] for r in rows))


def _variant(row: Mapping[str, Any], batches: Sequence[int]) -> Row:
    cells = [("variant", row["name"]), ("file", row["format"])]
    for batch, times, speeds in zip(batches, row["milliseconds"], row["speed_up"], strict=True):
        cells += [(f"ms, batch {batch}", _interval(times, 3)), ("speed-up", _gain(speeds, row))]
    memory = row["peak_memory"] and row["peak_memory"] / MEBIBYTE
    return [
        *cells,
        ("bytes", f"{row['bytes']:,}"),
        ("times smaller", f"{row['times_smaller']:.1f}"),
        ("memory, MiB", or_dash(memory, ".1f")),
        ("accuracy", or_dash(row["accuracy"], ".4f")),
        ("difference", or_dash(row["difference"], ".1e")),
    ]


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


def _layer(row: Mapping[str, Any]) -> Row:
    best, shape = row["recommended"], " × ".join(map(str, row["shape"]))
    cells = [("layer", row["layer"]), ("shape", shape), ("batch", str(row["batch"]))]
    cells.append(("sparsity", f"{row['sparsity']:.3f}"))
    for kernel in SPARSE:
        cells.append((f"{kernel}: speed-up", _interval(row["speed_up"][kernel], 2)))
        cells.append(("crossover", or_dash(row["crossover"][kernel], "g")))
    return [*cells, ("recommended", "dense (no gain)" if best == "dense" else best)]


def _format(row: Mapping[str, Any]) -> Row:
    forms = {"network": "", "format": "", "values": "", "bytes": ",", "times_smaller": ".1f"}
    forms |= {"difference": ".1e", "accuracy": ".4f"}
    return [(name.replace("_", " "), f"{row[name]:{form}}") for name, form in forms.items()]
