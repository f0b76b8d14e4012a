"""bayesprune show: print finished runs again."""

from jsonargparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("runs", nargs="+", type=str, help="run folders")
    parser.add_argument("--verify", action="store_true", help="replay each decision")


def main(given: Namespace) -> int:
    """Run the command; return its exit code."""
    from pyro_bayesprune.experiments.loading import load_run
    from pyro_bayesprune.pruning.replay import replay

    wrong = 0
    columns = ["epoch", "train_loss", "log_bf", "log_threshold", "decision", "tries", "sparsity"]
    for folder in given["runs"]:
        result = load_run(folder)
        print(result)
        print(result.history[columns].to_string(index=False))
        if given.get("verify"):
            epochs = replay(result.history, result.config)
            wrong += len(epochs)
            told = f"do not follow in epochs {epochs}" if epochs else "all follow"
            print(f"decisions from their records: {told}")
    return 1 if wrong else 0
