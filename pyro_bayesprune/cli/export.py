"""bayesprune export: write the pruned network to a file."""

from argparse import Namespace
from pathlib import Path

from jsonargparse import ArgumentParser

SUFFIXES = {"csr": "csr.safetensors", "sparse": "sparse.safetensors", "torch": "pt2"}
FORMATS = ("safetensors", "csr", "sparse", "torch", "onnx")
VALUES = ("float32", "float16")


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("run", type=str, help="run folder")
    parser.add_argument("--format", choices=FORMATS, default=FORMATS[0], help="format of the file")
    parser.add_argument("--values", choices=VALUES, default=VALUES[0], help="type of the weights")
    parser.add_argument("--compact", action="store_true", help="remove dead units and filters")
    help_text = "file in the run folder with the network, for example one that prune wrote"
    parser.add_argument("--weights", default="weights.safetensors", help=help_text)
    parser.add_argument("-o", "--output", type=str, help="output file (default: in the run folder)")


def main(args: Namespace) -> None:
    """Write the network and print the path and the size of the file."""
    from pyro_bayesprune._utils.files import path_of
    from pyro_bayesprune.experiments.loading import load_run
    from pyro_bayesprune.export.compaction import compact
    from pyro_bayesprune.export.files import write
    from pyro_bayesprune.models.plain import bake

    run = load_run(args.run, args.weights)
    module, shape = bake(run), run.metrics["shape"]
    if args.compact:
        module = compact(module, shape)
    path = Path(
        args.output or path_of(args.run) / f"network.{SUFFIXES.get(args.format, args.format)}"
    )
    size = write(module, path, shape, format=args.format, values=args.values)
    print(f"{path}: {size:,} bytes")
