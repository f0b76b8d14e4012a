"""Files that were cut short or in which a bit was turned: noticed and named, or harmless."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import xarray as xr

import pyro_bayesprune as bp
from attacks import CONFIG, assert_same, attack, run
from attacks.faults import half_done
from pyro_bayesprune._utils.files import digest
from pyro_bayesprune.data.builtin import _digits
from pyro_bayesprune.data.files import read_file, write_file
from pyro_bayesprune.diagnostics import _arviz, conversion
from pyro_bayesprune.experiments import folders
from pyro_bayesprune.experiments.errors import RunError
from pyro_bayesprune.export import files, graphs

SHAPE = (1, 8, 8)


@dataclass(frozen=True)
class File:
    """A kind of file: how one is made, and how it is read into something that can be compared."""

    name: str
    make: Callable[[Path], Path]
    read: Callable[[Path], Any]


def is_digest(value: Any) -> bool:
    """A checksum: under another name it checks nothing, and nothing else is lost."""
    return isinstance(value, str) and len(value) == 64


def of_run(name: str) -> File:
    """A file of a finished run, read as `load_run` does."""

    def read(path: Path) -> Any:
        result = bp.load_run(path.parent)
        tensors = digest(result.weights | {f"mask.{n}": m for n, m in result.masks.items()})
        metrics = {k: v for k, v in result.metrics.items() if not is_digest(v)}
        return tensors, result.config, json.dumps(metrics), result.history.to_csv()

    return File(f"{name} of a finished run", lambda folder: run(CONFIG, folder) / name, read)


def checkpoint(path: Path) -> Any:
    state, rows = folders.read_checkpoint(path.parent)
    return digest(state.weights | state.buffers), json.dumps(rows)


def analysed(folder: Path) -> Path:
    folders.write_record(
        folder / folders.ANALYSIS, {"scores": [{"accuracy": 0.97, "network": "MAP"}]}
    )
    return folder / folders.ANALYSIS


def drawn(folder: Path) -> Path:

    numbers = np.random.default_rng(0).normal(size=(2, 30))
    draws = xr.Dataset({"a": (("chain", "draw"), numbers)})
    conversion.save(_arviz.from_datasets({"posterior": draws}, {}), folder / "posterior.nc")
    return folder / "posterior.nc"


def draws(path: Path) -> Any:
    return _arviz.group(conversion.load(path), "posterior")["a"].to_numpy().tobytes()


def data(folder: Path) -> Path:
    write_file(folder / "own.safetensors", _digits())
    return folder / "own.safetensors"


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    net = bp.FCN(SHAPE, 10, (6, 5))
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(torch.rand_like(p) > 0.7)
    return net


def exported(form: str) -> File:
    def make(folder: Path) -> Path:
        files.write(network(), folder / f"net.{form}", SHAPE, format=form)  # type: ignore[arg-type]
        return folder / f"net.{form}"

    def read(path: Path) -> Any:
        if form == "onnx":
            model = graphs._checked_onnx(path)
            del model.metadata_props[:]
            return model.SerializeToString(deterministic=True)
        return digest(files.read(path).state_dict())

    return File(f"export as {form}", make, read)


FILES = [
    *(of_run(n) for n in ("config.json", "history.csv", "weights.safetensors", "result.json")),
    File("checkpoint.pt", lambda folder: half_done(folder) / "checkpoint.pt", checkpoint),
    File("data file by write_file", data, lambda path: digest(read_file(path))),
    File("analysis.json", analysed, lambda path: json.dumps(
        {k: v for k, v in folders.read_analysis(path.parent).items() if not is_digest(v)})),
    File("posterior.nc (NetCDF)", drawn, draws),
    *(exported(form) for form in ("safetensors", "csr", "sparse", "onnx")),
]  # fmt: skip


def flipped(content: bytes, place: int, rng: Random) -> bytes:
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]


def outcome(file: File, path: Path, good: Any) -> str:
    """Read a damaged file: it must be noticed and named, or read as it was."""
    try:
        found = file.read(path)
    except (RunError, ValueError) as error:
        assert path.name in str(error) and len(str(error)) < 2000, error
        return "noticed and named"
    assert found == good, f"{file.name}: a silent wrong value"
    return "harmless: read as it was"


def damaged(file: File, kind: str) -> Callable[[int, Random, Path], Iterator[str]]:
    def attempt(tries: int, rng: Random, folder: Path) -> Iterator[str]:
        path = file.make(folder)
        content, good = path.read_bytes(), file.read(path)
        for number in range(tries):  # every part of the file is tried
            place = int((number + rng.random()) * len(content) / tries)
            path.write_bytes(content[:place] if kind == "cut" else flipped(content, place, rng))
            yield outcome(file, path, good)
        path.write_bytes(content)
        assert file.read(path) == good

    return attempt


QUICK = {"export as onnx": 0}  # it takes seconds to make one; test_export has it
for _file in FILES:
    attack("damage", f"a bit turned: {_file.name}", full=150, quick=QUICK.get(_file.name, 8))(
        damaged(_file, "bit")
    )
    attack("damage", f"cut short: {_file.name}", full=30, quick=QUICK.get(_file.name, 4))(
        damaged(_file, "cut")
    )


@attack("damage", "a run goes on over a damaged checkpoint", full=4, quick=1)
def starts_over(tries: int, rng: Random, folder: Path) -> Iterator[str]:
    import warnings

    whole = run(CONFIG, folder / "whole")
    for number in range(tries):
        begun = half_done(folder / str(number))
        path = begun / "checkpoint.pt"
        bad = flipped(path.read_bytes(), rng.randrange(path.stat().st_size), rng)
        path.write_bytes(bad)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            run(CONFIG, begun.parent)
        assert any("checkpoint.pt is damaged" in str(w.message) for w in told)
        assert (begun / "checkpoint.pt.damaged").read_bytes() == bad
        assert_same(whole, begun)
        yield "warned, kept the damaged file, started over; same"
