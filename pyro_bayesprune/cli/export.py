"""bayesprune export: write the pruned network to a file."""

from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("run", type=str, help="run folder")
    formats = ("safetensors", "csr", "bitmask", "sparse", "torch", "onnx")
    parser.add_argument("--format", choices=formats, help="of the file (default: safetensors)")
    values = ("float32", "float16", "int8")
    parser.add_argument("--values", choices=values, help="of the weights (default: float32)")
    parser.add_argument("--compact", action="store_true", help="cut dead units and filters out")
    parser.add_argument("-o", "--output", type=str, help="the file (default: in the run folder)")


def main(given: Namespace) -> int:
    """Run the command; return its exit code."""
    from pyro_bayesprune.experiments.loading import load_run
    from pyro_bayesprune.export.compaction import compact
    from pyro_bayesprune.export.files import write
    from pyro_bayesprune.models.plain import bake

    result = load_run(given["run"])
    module, shape = bake(result), result.metrics["shape"]
    if given.get("compact"):
        module = compact(module, shape)
    names = ("format", "values")
    options: dict[str, Any] = {name: given[name] for name in names if given.get(name)}
    form = options.get("format", "safetensors")
    ending = {"safetensors": form, "torch": "pt2", "onnx": form}.get(form, f"{form}.safetensors")
    path = Path(given.get("output") or Path(given["run"]) / f"network.{ending}")
    size = write(module, path, shape, **options)
    print(f"{path}: {size:,} bytes")
    return 0
