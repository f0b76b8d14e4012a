"""bayesprune report: one HTML page about runs."""

import sys
import warnings
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from pyro_bayesprune.cli.common import UserError


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("runs", nargs="+", type=str, help="run folders, folders of run folders")
    parser.add_argument("-o", "--output", type=str, default="report.html", help="the HTML file")
    parser.add_argument(
        "--draws",
        choices=("auto", "none", "laplace", "last_layer_laplace", "last_layer_nuts", "nuts"),
        help="draw around the finished runs first, diagnose and calibrate. laplace: all surviving "
        "weights; last_layer_laplace: those of the last layer; nuts, last_layer_nuts: the same, "
        "for at most 1000 of them; auto: of the last layer, by NUTS up to 300 and else Laplace; "
        "none: calibrate alone. Networks are compared only where all are drawn in one way",
    )
    parser.add_argument("--foreign", type=str, help="data set for out-of-distribution inputs")
    parser.add_argument("--data_dir", type=str, help="folder of the data files")


def main(given: Namespace) -> int:
    """Run the command; return its exit code."""
    try:
        from pyro_bayesprune.reporting.page import report
    except ImportError as error:
        raise UserError(f"{error}: pip install 'pyro-bayesprune[diagnostics]'") from None
    values = given.as_dict()
    if values.get("draws"):
        _analyse(values)
    print(report(values["runs"], values.get("output") or "report.html"))
    return 0


def _analyse(values: dict[str, Any]) -> None:
    """Draw around every finished run; one that cannot be is told, and stops no other."""
    from pyro_bayesprune.data.builtin import load_dataset
    from pyro_bayesprune.experiments.loading import load_runs

    where = values.get("data_dir")
    foreign = load_dataset(values["foreign"], where) if values.get("foreign") else None
    found = [run for folder in values["runs"] for run in load_runs(folder)]
    folders = [run.folder for run in found if run.folder is not None and not run.error]
    if not folders:
        raise UserError(f"--draws needs a finished run with its weights: none in {values['runs']}")
    for folder in folders:
        try:
            _analyse_one(folder, values["draws"], where, foreign)
        except ValueError as error:
            if len(folders) == 1:
                raise
            warnings.warn(f"{folder} is not analysed: {error}", stacklevel=2)


def _analyse_one(folder: Path, method: Any, where: str | None, foreign: Any) -> None:  # noqa: ANN401
    from pyro_bayesprune.experiments.build import build_data
    from pyro_bayesprune.experiments.loading import load_run
    from pyro_bayesprune.reporting.analysis import analyse

    result = load_run(folder)
    print(f"analysing {folder} (draws: {method})", file=sys.stderr, flush=True)
    analyse(result, build_data(result.config, where), method=method, foreign=foreign)
