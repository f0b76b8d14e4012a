"""The commands of the command line: their options and what they do.

Heavy modules are imported by the command that needs them.
"""

import json
import re
import sys
import tomllib
import warnings
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace

from pyro_bayesprune.config import Config, MethodName, PresetName, configure
from pyro_bayesprune.progress import GridView

AXES = {
    "datasets": "dataset",
    "networks": "network",
    "methods": "method",
    "sparsities": "sparsity",
    "seeds": "seed",
}
DATASETS = ("digits", "mnist", "fashion_mnist", "cifar10")
DEFAULTS = {"out": "runs", "device": "cpu"}


class UserError(Exception):
    """A mistake of the user: one line, exit code 2."""


class Stopped(BaseException):
    """SIGTERM arrived (a BaseException, like KeyboardInterrupt)."""


def _where(parser: ArgumentParser) -> None:
    parser.add_argument("--out", type=str, help="folder of the run folders")
    parser.add_argument("--data_dir", type=str, help="folder of the data files")
    parser.add_argument("--device", type=str, help="cpu, cuda or mps")
    parser.set_defaults(DEFAULTS)


def _run_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--config", type=str, help="YAML or TOML file of settings")
    parser.add_argument("--preset", type=PresetName, help="where settings start: default or paper")
    parser.add_argument("--method", type=MethodName, help="one of the paper's methods")
    parser.add_class_arguments(Config, as_group=False)
    _where(parser)


def _show_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=str, help="run folders")
    parser.add_argument("--verify", action="store_true", help="replay each decision")


def _grid_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--preset", type=PresetName, default="paper", help="where settings start")
    for axis in AXES:
        help_ = f"comma-separated values (default with --preset paper: the paper's {axis})"
        parser.add_argument(f"--{axis}", type=str, help=help_)
    vary = "further axes, setting=value,…; without --methods the settings alone say the method"
    parser.add_argument("--vary", type=str, nargs="+", help=vary)
    parser.add_argument("--epochs", type=int, help="passes over the training data")
    parser.add_argument("--config", type=str, help="YAML or TOML file of further settings")
    parser.add_argument("--store", type=str, help="folder of results.csv: known runs are skipped")
    parser.add_argument("--jobs", type=int, help="runs at a time (default: one)")
    parser.add_argument("--engine", choices=("loky", "dask"), help="processes here, or a cluster")
    parser.add_argument("--address", type=str, help="of the Dask scheduler, tcp://host:port")
    parser.add_argument(
        "--controls", action="store_true", help="the controls of each configuration in its place"
    )
    parser.add_argument("--verify", type=int, help="run this many finished runs again; compare")
    _where(parser)


def _paper_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("what", choices=("table1", "figures"), help="what to make")
    parser.add_argument("store", type=str, help="folder of run folders, or of results.csv")
    formats = "markdown, csv or html for table1; png, svg or pdf for figures (default: the first)"
    choices = ("markdown", "csv", "html", "png", "svg", "pdf")
    parser.add_argument("--format", choices=choices, help=formats)
    parser.add_argument("--out", type=str, help="file of table1; folder of figures")
    parser.add_argument("--where", type=str, help="which runs, if several: setting=value,…")


def _report_arguments(parser: ArgumentParser) -> None:
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


def _export_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=str, help="run folder")
    formats = ("safetensors", "csr", "bitmask", "sparse", "torch", "onnx")
    parser.add_argument("--format", choices=formats, help="of the file (default: safetensors)")
    values = ("float32", "float16", "int8")
    parser.add_argument("--values", choices=values, help="of the weights (default: float32)")
    parser.add_argument("--compact", action="store_true", help="cut dead units and filters out")
    parser.add_argument("-o", "--output", type=str, help="the file (default: in the run folder)")


def _bench_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("what", choices=("training", "deploy"), help="what to measure")
    parser.add_argument("run", nargs="?", type=str, help="run folder (deploy)")
    parser.add_argument("--quick", action="store_true", help="training: fewer rows, a minute")
    parser.add_argument("--json", type=str, help="file of the numbers; - prints them alone")
    parser.add_argument("--data_dir", type=str, help="folder of the data files (deploy)")


def _data_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("action", choices=("list", "fetch"), help="what to do")
    parser.add_argument("name", nargs="?", type=str, help="data set to fetch")
    parser.add_argument("--data_dir", type=str, help="folder of the data files")


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number, as in YAML 1.2, and not a text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    [*"-+.0123456789"],
)


def read_settings(path: str) -> dict[str, Any]:
    """Return the settings of a YAML or TOML file, by its ending.

    Raises:
        UserError: if the file cannot be read or is not a table of settings.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        values = tomllib.loads(text) if path.endswith(".toml") else yaml.load(text, _Loader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise UserError(f"{path} must be a table of settings, got {type(values).__name__}")
    for name, value in values.items():  # to show nested ones may take for ever (YAML's aliases)
        if any(
            isinstance(v, (list, dict)) for v in (value if isinstance(value, list) else [value])
        ):
            raise UserError(f"{path}: {name} must be a plain value or a list of them")
    return values


def configuration(given: dict[str, Any]) -> Config:
    """Return the configuration of what was given: a file's settings, overridden by options."""
    from_file = read_settings(given["config"]) if given.get("config") else {}
    names = {field.name for field in fields(Config)}
    settings = from_file | {n: v for n, v in given.items() if n in names and v is not None}
    preset = given.get("preset") or settings.pop("preset", "default")
    method = given.get("method") or settings.pop("method", None)
    settings.pop("preset", None), settings.pop("method", None)
    return configure(preset, method, **settings)


def _run(given: Namespace) -> int:
    from pyro_bayesprune.experiment import run

    values = DEFAULTS | given.as_dict()
    config = configuration(values)
    folder = Path(values["out"]) / config.id
    try:
        result = run(
            config, out=values["out"], data_dir=values.get("data_dir"), device=values["device"]
        )
    except (KeyboardInterrupt, Stopped) as stop:
        told = f"stopped; what is done is in {folder}. Run the same command again to go on."
        print(f"\n{told}", file=sys.stderr)
        return 130 if isinstance(stop, KeyboardInterrupt) else 143
    print(result)
    return 0


def _show(given: Namespace) -> int:
    from pyro_bayesprune.experiment import load_run, replay

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


def _axis(name: str, text: str) -> list[Any]:
    convert = {"seeds": int, "sparsities": float}.get(name, str)
    try:
        return [convert(part.strip()) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--{name} must be comma-separated numbers, got {text!r}") from None


def _varied(texts: list[str]) -> dict[str, tuple[Any, ...]]:
    """Return the axes of --vary; values are YAML, so that [512, 512] is one of them."""
    axes = {}
    for text in texts:
        name, _, listed = text.partition("=")
        try:
            axes[name.strip()] = tuple(yaml.safe_load(f"[{listed}]"))
        except yaml.YAMLError:
            axes[name.strip()] = ()
        if not axes[name.strip()]:
            raise UserError(f"--vary must be setting=value,value…, got {text!r}")
    return axes


def _grid_configurations(values: dict[str, Any]) -> list[Config]:
    """Return the configurations that a grid's options name."""
    from pyro_bayesprune.grids import PAPER, controls, product

    preset = values.get("preset") or "paper"
    axes = dict(PAPER) if preset == "paper" else {}
    for plural, field in AXES.items():
        if values.get(plural):
            axes[field] = tuple(_axis(plural, values[plural]))
    if values.get("vary"):
        axes |= _varied(values["vary"])
        axes = {field: v for field, v in axes.items() if field != "method" or values.get("methods")}
    settings = read_settings(values["config"]) if values.get("config") else {}
    settings |= {"epochs": values["epochs"]} if values.get("epochs") else {}
    configs = product(preset, **axes, **{name: (value,) for name, value in settings.items()})
    if values.get("controls"):
        configs = [control for config in configs for control in controls(config).values()]
    return configs


def _verify(configs: list[Config], values: dict[str, Any]) -> int:
    from pyro_bayesprune.grids import verify

    same = verify(configs, values["verify"], out=values["out"], data_dir=values.get("data_dir"))
    for run_id, fine in same.items():
        print(f"{run_id} {'the same again' if fine else 'DIFFERS'}")
    return 0 if same and all(same.values()) else 1


def _grid(given: Namespace) -> int:
    from pyro_bayesprune.grids import Outcome, grid
    from pyro_bayesprune.results import known_ids, record

    values = DEFAULTS | given.as_dict()
    configs = _grid_configurations(values)
    if values.get("verify"):
        return _verify(configs, values)
    out, store = Path(values["out"]), values.get("store")
    view = GridView(len(configs), values.get("jobs") or 1)

    def watch(outcome: Outcome) -> None:
        view.add(outcome.config.title, outcome.status, outcome.seconds)
        if store and outcome.status == "done":
            record(store, out / outcome.config.id)

    outcomes = grid(
        configs,
        out=out,
        data_dir=values.get("data_dir"),
        device=values["device"],
        jobs=values.get("jobs") or 1,
        engine=values.get("engine") or "loky",
        address=values.get("address"),
        known=known_ids(store) if store else (),
        watch=watch,
    )
    if all(outcome.status == "skipped" for outcome in outcomes):
        print(f"nothing left to run: all {len(outcomes)} are done", file=sys.stderr)
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    for outcome in failed:
        last = outcome.error.strip().splitlines()[-1]
        print(f"failed: {out / outcome.config.id}: {last}", file=sys.stderr)
    return 1 if failed else 0


def _pairs(text: str) -> dict[str, str]:
    parts = [part.partition("=") for part in text.split(",")] if text else []
    if not all(equals for _, equals, _ in parts):
        raise UserError(f"--where must be setting=value,…, got {text!r}")
    return {name.strip(): value.strip() for name, _, value in parts}


def _paper(given: Namespace) -> int:
    table, figures = ("markdown", "csv", "html"), ("png", "svg", "pdf")
    allowed = table if given["what"] == "table1" else figures
    chosen = given.get("format") or allowed[0]
    if chosen not in allowed:
        raise UserError(f"{given['what']} is written as {', '.join(allowed)}, not as {chosen}")
    make = _paper_table1 if given["what"] == "table1" else _paper_figures
    make(given["store"], chosen, given.get("out"), _pairs(given.get("where") or ""))
    return 0


def _paper_table1(store: str, form: str, out: str | None, where: dict[str, str]) -> None:
    from pyro_bayesprune import paper
    from pyro_bayesprune.results import load_results

    results = load_results(store)
    text = paper.FORMATS[form](paper.table1(results, where), paper.notes(results, where))
    if out is None:
        print(text)
        return
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_text(text, encoding="utf-8")
    print(out)


def _paper_figures(store: str, form: str, out: str | None, where: dict[str, str]) -> None:
    from pyro_bayesprune.paper import figures

    written, missing = figures(store, out or "figures", format=form, where=where)
    for path in written:
        print(path)
    for line in missing:
        print(f"not made: {line}", file=sys.stderr)


def _report(given: Namespace) -> int:
    try:
        from pyro_bayesprune.report import report
    except ImportError as error:
        raise UserError(f"{error}: pip install 'pyro-bayesprune[diagnostics]'") from None
    values = given.as_dict()
    if values.get("draws"):
        _analyse(values)
    print(report(values["runs"], values.get("output") or "report.html"))
    return 0


def _analyse(values: dict[str, Any]) -> None:
    """Draw around every finished run; one that cannot be is told, and stops no other."""
    from pyro_bayesprune.data import load_dataset
    from pyro_bayesprune.report import load

    where = values.get("data_dir")
    foreign = load_dataset(values["foreign"], where) if values.get("foreign") else None
    found = [run for folder in values["runs"] for run in load(folder)]
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
    from pyro_bayesprune.analysis import analyse
    from pyro_bayesprune.experiment import build_data, load_run

    result = load_run(folder)
    print(f"analysing {folder} (draws: {method})", file=sys.stderr, flush=True)
    analyse(result, build_data(result.config, where), method=method, foreign=foreign)


def _export(given: Namespace) -> int:
    from pyro_bayesprune.experiment import load_run
    from pyro_bayesprune.export import bake, compact, write

    result = load_run(given["run"])
    module, shape = bake(result), result.metrics["shape"]
    if given.get("compact"):
        module = compact(module, shape)
    names = ("format", "values")
    options: dict[str, Any] = {name: given[name] for name in names if given.get(name)}
    form = options.get("format", "safetensors")
    ending = {"safetensors": form, "torch": "pt2", "onnx": form}.get(form, f"{form}.safetensors")
    path = Path(given.get("output") or result.folder / f"network.{ending}")
    size = write(module, path, shape, **options)
    print(f"{path}: {size:,} bytes")
    return 0


def _bench(given: Namespace) -> int:
    from pyro_bayesprune import bench, bench_deploy
    from pyro_bayesprune.runs import write_atomically

    if given["what"] == "training":
        result, table = bench.training(quick=bool(given.get("quick"))), bench.table
    else:
        result, table = _bench_deploy(given), bench_deploy.table
    content = json.dumps(result, indent=2)
    if given.get("json") == "-":
        print(content)
        return 0
    print(table(result))
    if given.get("json"):
        write_atomically(Path(given["json"]), (content + "\n").encode())
    return 0


def _bench_deploy(given: Namespace) -> dict[str, Any]:
    from pyro_bayesprune.bench_deploy import deploy_table
    from pyro_bayesprune.experiment import build_data, load_run
    from pyro_bayesprune.export import bake

    if not given.get("run"):
        raise UserError("bench deploy needs a run folder")
    result = load_run(given["run"])
    data = build_data(result.config, given.get("data_dir"))
    if data.test_x is None or data.test_y is None:
        raise UserError(f"{result.config.dataset} has no test images")
    return deploy_table(bake(result), data.test_x, data.test_y)


def _data(given: Namespace) -> int:
    from pyro_bayesprune.data import data_folder, fetch

    folder = data_folder(given.get("data_dir"))
    if given["action"] == "fetch":
        if not given.get("name"):
            raise UserError(f"data fetch needs a name, one of {', '.join(DATASETS[1:])}")
        print(fetch(given["name"], given.get("data_dir")))
        return 0
    for name in DATASETS:
        path = folder / f"{name}.safetensors"
        place = "built in" if name == "digits" else path if path.exists() else "not fetched yet"
        print(f"{name:14s} {place}")
    return 0


Command = tuple[str, Callable[[ArgumentParser], None], Callable[[Namespace], int]]
COMMANDS: dict[str, Command] = {
    "run": ("train and prune one network; goes on where it was interrupted", _run_arguments, _run),
    "show": ("print finished runs again", _show_arguments, _show),
    "grid": ("many runs, on one machine or many; run it again to go on", _grid_arguments, _grid),
    "paper": ("the paper's Table 1 and figures, from your runs", _paper_arguments, _paper),
    "report": ("one HTML page: can it be trusted?", _report_arguments, _report),
    "export": ("write the pruned network to a file of its own", _export_arguments, _export),
    "bench": ("measure: training beside plain PyTorch, deployment", _bench_arguments, _bench),
    "data": ("list the data sets, or fetch one", _data_arguments, _data),
}
