"""bayesprune prune: prune the network of a finished run without training it."""

from argparse import Namespace
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser

from pyro_bayesprune.pruning.registry import CriterionName, Scope, Update


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("run", type=str, help="run folder")
    sparsity = float | Literal["auto"]
    parser.add_argument("--sparsity", type=sparsity, default=0.9, help="share of zeros, or auto")
    helps = {
        "update": "condition the survivors on the zeros, or leave them (project)",
        "criterion": "which weights are pruned first",
        "scope": "one ranking for all layers (global), or one for each layer or its units",
    }
    parser.add_argument("--update", type=Update, default="condition", help=helps["update"])
    parser.add_argument("--criterion", type=CriterionName, default="magnitude",
                        help=helps["criterion"])  # fmt: skip
    parser.add_argument("--scope", type=Scope, default="global", help=helps["scope"])
    parser.add_argument("--beta", type=float, default=0.95, help="threshold of auto, per datum")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample of examples")
    parser.add_argument("--data_dir", type=str, help="folder that contains the data files")


def main(args: Namespace) -> None:
    """Prune, print the levels and the test results, and write weights and record beside the run."""
    from pyro_bayesprune.experiments.build import build_data
    from pyro_bayesprune.experiments.folders import write_record, write_weights
    from pyro_bayesprune.experiments.loading import load_run
    from pyro_bayesprune.experiments.running import test_metrics
    from pyro_bayesprune.training.trained import prune

    run = load_run(args.run)
    data = build_data(run.config, args.data_dir)
    names = ("update", "criterion", "scope", "beta", "seed")
    settings = {name: value for name, value in vars(args).items() if name in names}
    pruned = prune(
        run.model, run.weights, data, args.sparsity, temperature=run.temperature, **settings
    )
    results = {
        "trained": test_metrics(run.model, run.weights, data),
        "pruned": test_metrics(run.model, pruned.weights, data),
    }
    path = Path(args.run) / f"pruned-{args.sparsity}.safetensors"
    record = settings | {"sparsity": pruned.sparsity, "requested": args.sparsity, **results}
    write_weights(path, pruned.state)
    write_record(path.with_suffix(".json"), record | {"levels": pruned.levels.to_dict("records")})
    print(pruned.levels.to_string(index=False, float_format="%.4g"))
    for name, values in results.items():
        print(f"{name}: " + ", ".join(f"{key} {value:.4f}" for key, value in values.items()))
    print(f"{pruned}\n{path}")
