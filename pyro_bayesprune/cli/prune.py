"""bayesprune prune: prune the network of a finished run without training it."""

from argparse import Namespace
from typing import Any, Literal

from jsonargparse import ArgumentParser

from pyro_bayesprune.pruning.registry import CriterionName, Scope, Update

OPTIONS: dict[str, tuple[Any, Any, str]] = {  # type, default and help
    "update": (
        Update,
        "condition",
        "condition the survivors on the zeros, or leave them (project)",
    ),
    "criterion": (CriterionName, "magnitude", "which weights are pruned first"),
    "scope": (
        Scope,
        "global",
        "one ranking for all layers (global), or one for each layer or unit",
    ),
    "beta": (float, 0.95, "threshold of auto, per datum"),
    "seed": (int, 0, "seed of the sample of examples"),
}


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("run", type=str, help="run folder")
    sparsity = float | Literal["auto"]
    parser.add_argument("--sparsity", type=sparsity, default=0.9, help="share of zeros, or auto")
    for name, (kind, default, text) in OPTIONS.items():
        parser.add_argument(f"--{name}", type=kind, default=default, help=text)
    parser.add_argument("--data_dir", type=str, help="folder that contains the data files")


def main(args: Namespace) -> None:
    """Prune, print the levels and the test results, and write weights and record beside the run."""
    from pyro_bayesprune._utils.files import path_of
    from pyro_bayesprune.experiments.folders import write_record, write_weights
    from pyro_bayesprune.experiments.loading import load_run
    from pyro_bayesprune.experiments.running import data_of, test_metrics
    from pyro_bayesprune.training.trained import prune

    run = load_run(args.run)
    data = data_of(run, args.data_dir)
    settings = {name: getattr(args, name) for name in OPTIONS}
    pruned = prune(
        run.model, run.weights, data, args.sparsity, temperature=run.temperature, **settings
    )
    results = {
        "trained": test_metrics(run.model, run.weights, data),
        "pruned": test_metrics(run.model, pruned.weights, data),
    }
    # Settings that are not the default are a part of the name of the result.
    changed = (
        f"{n}={settings[n]}" for n, (_, default, _) in OPTIONS.items() if settings[n] != default
    )
    path = path_of(args.run) / ("-".join(["pruned", str(args.sparsity), *changed]) + ".safetensors")
    record = settings | {"sparsity": pruned.sparsity, "requested": args.sparsity, **results}
    write_weights(path, pruned.state)
    write_record(path.with_suffix(".json"), record | {"levels": pruned.levels.to_dict("records")})
    print(pruned.levels.to_string(index=False, float_format="%.4g"))
    for name, values in results.items():
        print(f"{name}: " + ", ".join(f"{key} {round(value, 4)}" for key, value in values.items()))
    print(f"{pruned}\n{path}")
