"""bayesprune show: print finished runs."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser

if TYPE_CHECKING:
    from pyro_bayesprune.experiments.loading import Run

COLUMNS = ["epoch", "train_loss", "log_bf", "log_threshold", "decision", "tries", "sparsity"]


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of the command."""
    text = "run folders, for their epochs; folders of run folders, for a table of the runs"
    parser.add_argument("runs", nargs="+", type=str, help=text)
    parser.add_argument("--verify", action="store_true", help="check each decision by replaying it")


def main(args: Namespace) -> int:
    """Print the runs. Return 1 if a decision does not follow from its record, else 0."""
    from pyro_bayesprune.experiments.loading import load_run, load_runs

    failures = 0
    for folder in args.runs:
        if any(Path(folder).glob("*/config.json")):
            runs = load_runs(folder)
            for run in (run for run in runs if run.error):
                print(f"{run.id}: not finished: {run.summary()['not finished']}")
            runs = [run for run in runs if not run.error]
            print(_table(runs) if runs else "no finished runs")
        else:
            runs = [load_run(folder)]
            print(runs[0])
            print(runs[0].history[COLUMNS].to_string(index=False))
        if args.verify:
            failures += sum(not _verified(run) for run in runs)
    return 1 if failures else 0


def _table(runs: Sequence["Run"]) -> str:
    """Return a table of finished runs."""
    import pandas as pd

    rows = ({"run": run.title} | run.summary() | {"id": run.id} for run in runs)
    frame = pd.DataFrame(rows).rename(columns=lambda name: name.rstrip(":"))
    return frame.to_string(index=False, na_rep="")


def _verified(run: "Run") -> bool:
    """Print whether all decisions of a run follow from their records, and return it."""
    from pyro_bayesprune.pruning.replay import replay

    epochs = replay(run.history, run.config)
    subject = f"the decisions of epochs {epochs} do not" if epochs else "all decisions"
    print(f"{run.id}: {subject} follow from their records")
    return not epochs
