"""bayesprune data: list the data sets, or download one of them."""

from argparse import Namespace

from jsonargparse import ArgumentParser

from pyro_bayesprune.pruning.registry import DATASETS


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("action", choices=("list", "fetch"), help="what to do")
    parser.add_argument("name", nargs="?", type=str, help="data set to download")
    parser.add_argument("--data_dir", type=str, help="folder of the data files")


def main(args: Namespace) -> None:
    """List the data sets with their files, or download one and print the path of its file."""
    from pyro_bayesprune.data.builtin import SKLEARN, data_folder, fetch

    if args.action == "fetch":
        if not args.name:
            names = ", ".join(name for name in DATASETS if name not in SKLEARN)
            raise ValueError(f"data fetch needs a name, one of {names}")
        print(fetch(args.name, args.data_dir))
        return
    folder = data_folder(args.data_dir)
    print(f"data folder: {folder} (--data-dir or PYRO_BAYESPRUNE_DATA names another one)")
    for name in DATASETS:
        path = folder / f"{name}.safetensors"
        place = "built in" if name in SKLEARN else path if path.exists() else "not downloaded"
        print(f"{name:14s} {place}")
