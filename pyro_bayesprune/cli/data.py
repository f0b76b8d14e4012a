"""bayesprune data: list the data sets, or fetch one."""

from jsonargparse import ArgumentParser, Namespace

from pyro_bayesprune.cli.common import UserError
from pyro_bayesprune.pruning.registry import DATASETS


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("action", choices=("list", "fetch"), help="what to do")
    parser.add_argument("name", nargs="?", type=str, help="data set to fetch")
    parser.add_argument("--data_dir", type=str, help="folder of the data files")


def main(given: Namespace) -> int:
    """Run the command; return its exit code."""
    from pyro_bayesprune.data.builtin import data_folder, fetch

    folder = data_folder(given.get("data_dir"))
    if given["action"] == "fetch":
        if not given.get("name"):
            raise UserError(f"data fetch needs a name, one of {', '.join([*DATASETS][1:])}")
        print(fetch(given["name"], given.get("data_dir")))
        return 0
    for name in DATASETS:
        path = folder / f"{name}.safetensors"
        place = "built in" if name == "digits" else path if path.exists() else "not fetched yet"
        print(f"{name:14s} {place}")
    return 0
