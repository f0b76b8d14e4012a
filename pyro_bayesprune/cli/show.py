"""bayesprune show: print finished runs."""

from argparse import Namespace

from jsonargparse import ArgumentParser

COLUMNS = ["epoch", "train_loss", "log_bf", "log_threshold", "decision", "tries", "sparsity"]


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("runs", nargs="+", type=str, help="run folders")
    parser.add_argument("--verify", action="store_true", help="check each decision by replaying it")


def main(args: Namespace) -> int:
    """Print the runs. Return 1 if a decision does not follow from its record, else 0."""
    from pyro_bayesprune.experiments.loading import load_run
    from pyro_bayesprune.pruning.replay import replay

    code = 0
    for folder in args.runs:
        run = load_run(folder)
        print(run)
        print(run.history[COLUMNS].to_string(index=False))
        if args.verify:
            epochs = replay(run.history, run.config)
            code = 1 if epochs else code
            subject = f"the decisions of epochs {epochs} do not" if epochs else "all decisions"
            print(f"{subject} follow from their records")
    return code
