"""Files from elsewhere: nothing in them is run, shown as code, or written outside their folder."""

import ast
import os
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pyro_bayesprune as bp
from attacks import CONFIG, OPTIONS, assert_one_line, attack, command, run
from attacks.faults import half_done
from pyro_bayesprune.data.builtin import _digits
from pyro_bayesprune.data.files import write_file
from pyro_bayesprune.diagnostics import conversion
from pyro_bayesprune.experiments import folders, grids
from pyro_bayesprune.experiments.errors import RunError
from pyro_bayesprune.export import files, graphs
from pyro_bayesprune.reporting import analysis, page

SCRIPT = "<script>alert(1)</script>"


class Evil:
    """Unpickling it would make a folder."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.place),)


def readers(folder: Path) -> dict[str, tuple[str, Any]]:
    """What reads a file: the file's place, and the call."""
    begun, done = half_done(folder / "begun"), run(CONFIG, folder / "done")

    return {
        "checkpoint": (begun / "checkpoint.pt", lambda p: folders.read_checkpoint(p.parent)),
        "weights": (done / "weights.safetensors", lambda p: bp.load_run(p.parent)),
        "history": (done / "history.csv", lambda p: bp.load_run(p.parent)),
        "config": (done / "config.json", lambda p: bp.load_run(p.parent)),
        "result": (done / "result.json", lambda p: bp.load_run(p.parent)),
        "data": (folder / "own.safetensors", lambda p: bp.load_dataset(str(p))),
        "export": (folder / "net", files.read),
        "onnx": (folder / "net.onnx", graphs._checked_onnx),
        "draws": (folder / "posterior.nc", conversion.load),
        "analysis": (folder / "analysis.json", lambda p: folders.read_analysis(p.parent)),
    }


@attack("safety", "a pickle in the place of each file that is read", full=10, quick=10)
def pickles(tries: int, rng: Random, folder: Path) -> Iterator[str]:
    import hashlib

    touched = folder / "touched"
    for name, (path, read) in list(readers(folder).items())[:tries]:
        before = path.read_bytes() if path.exists() else None
        content = pickle.dumps(Evil(touched), 2)
        path.write_bytes(
            content + hashlib.sha256(content).digest()
        )  # as a checksum behind would be
        try:
            read(path)
            raise AssertionError(f"{name}: a pickle was read")
        except (ValueError, RunError):
            pass
        assert not touched.exists(), name
        if before is not None:
            path.write_bytes(before)
        yield "refused; not run"


FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "import_module", "read_pickle", "unpickle",
    "full_load", "unsafe_load", "jit.load", "os.system", "joblib.load", "pickle.load",
    "pickle.loads", "importlib.import_module",
}  # fmt: skip


OWN = ("f'pyro_bayesprune.", "f'{PACKAGE}.", "f'{__name__}.")


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@attack("safety", "modules of the package that could run what a file holds", full=200, quick=200)
def forbidden(tries: int, rng: Random, folder: Path) -> Iterator[str]:
    for path in sorted(Path(bp.__file__).parent.rglob("*.py"))[:tries]:
        for name, call in calls(ast.parse(path.read_text(encoding="utf-8"))):
            own = call.args and ast.unparse(call.args[0]).startswith(OWN)  # its own modules
            assert name not in FORBIDDEN or (name == "import_module" and own), (
                f"{path.name}: {name}"
            )
            options = {k.arg: ast.unparse(k.value) for k in call.keywords}
            if name == "np.load":
                assert options.get("allow_pickle") == "False", path.name
            if name == "torch.load":
                assert options.get("weights_only") == "True", path.name
            if name == "yaml.load":
                assert "_Loader" in ast.unparse(call.args[1]), path.name
            assert options.get("shell") != "True", path.name
        yield "none of the calls that do"


PATHS = """os.system torch.nn.Linear builtins.eval pyro_bayesprune.networks.FCN ../fcn
${oc.env:HOME} !!python/name:os.system !!python/object/apply:os.getpid""".split()
NAMED = "network prior criterion gate schedule scope restart preset method".split()


@attack("safety", "import paths and tags in a configuration file, by setting", full=72, quick=6)
def import_paths(tries: int, rng: Random, folder: Path) -> Iterator[str]:
    cases = [(name, path) for name in NAMED for path in PATHS]
    for name, value in rng.sample(cases, tries):
        path = folder / "settings.yaml"
        path.write_text(f"{name}: {value}")
        code, lines = command("run", *OPTIONS, "--config", path, "--out", folder, folder=folder)
        assert_one_line(code, lines)
        yield "one line; nothing imported"


def evil(value: Any) -> Any:
    """The same value with a script in every text."""
    if isinstance(value, dict):
        return {f"{k}": evil(v) for k, v in value.items()}
    if isinstance(value, list):
        return [evil(v) for v in value]
    return f"{SCRIPT}{value}" if isinstance(value, str) else value


NAMES = [
    SCRIPT,
    "$\\frac{$",
    "a&b<c>\"d'",
    "{{ 7 * 7 }}",
    "%s%n",
    "\u202eevil",
    "tab\tline\nend",
    "_^$x_",
]


@attack("safety", "reports of runs whose data file has an evil name", full=len(NAMES), quick=2)
def names(tries: int, rng: Random, folder: Path) -> Iterator[str]:
    for number, name in enumerate(NAMES[:tries]):
        path = folder / str(number) / f"{name}.safetensors"
        path.parent.mkdir(parents=True)
        write_file(path, _digits())
        place = run(replace(CONFIG, dataset=str(path), epochs=2), folder / "runs")
        (place / "error.txt").write_text(SCRIPT)
        html = page.report([place], folder / "report.html").read_text(encoding="utf-8")
        assert "<script" not in html
        yield "escaped"


@attack("safety", "reports of run folders with a script in every text", full=3, quick=1)
def scripts(tries: int, rng: Random, folder: Path) -> Iterator[str]:
    for number in range(tries):
        place = run(replace(CONFIG, seed=number), folder)
        told = analysis.analyse(bp.load_run(place), bp.load_dataset("digits"), method="none")
        result = folders.read_result(place)
        kept = {k: v for k, v in result.items() if "sha256" in k}
        folders.write_record(place / "result.json", evil(result) | kept)
        folders.write_record(place / folders.ANALYSIS, evil(told))
        html = page.report([place], folder / "report.html").read_text(encoding="utf-8")
        assert "<script" not in html and "&lt;script" in html
        yield "escaped"


WAYS_OUT = [
    "../../outside.json",
    "/tmp/outside-of-it.json",
    "..\\..\\outside.json",
    "a/../../b.json",
]


@attack("safety", "paths that lead out of a run folder", full=4, quick=4)
def ways_out(tries: int, rng: Random, folder: Path) -> Iterator[str]:
    for name in WAYS_OUT[:tries]:
        out = folder / "a" / "b"
        outcome = grids.Outcome(CONFIG, "done", files={name: b"{}"})
        before = {p for p in folder.rglob("*") if p.is_file()}
        grids._receive(out, outcome)
        new = {p for p in folder.rglob("*") if p.is_file()} - before
        assert new and all(p.parent == out / CONFIG.id for p in new), new
        assert not Path(name).is_absolute() or not Path(name).exists()
        yield "stays in its folder"


@attack("safety", "links in a run folder that lead out of it", full=5, quick=5)
def links(tries: int, rng: Random, folder: Path) -> Iterator[str]:
    outside = folder / "outside"
    for name in ("checkpoint.pt", "history.csv", "data.sha256", "lock", "x.partial")[:tries]:
        place = folder / "runs" / name / CONFIG.id
        place.mkdir(parents=True)
        outside.write_text("precious")
        (place / name).symlink_to(outside)
        try:
            import warnings

            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # that is no checkpoint
                run(CONFIG, place.parent)
        except (OSError, RunError):
            pass
        assert outside.read_text() == "precious", name
        yield "what it leads to is as it was"
