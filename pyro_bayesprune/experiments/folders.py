"""The run folder: its files are written atomically, locked, and checked when they are read.

The functions ``read_...`` raise a RunError if the file is damaged, or missing where it is required.
"""

import io
import itertools
import json
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from torch import Tensor

from pyro_bayesprune._utils.files import sha256, with_checksum, without_checksum, write_atomically
from pyro_bayesprune.experiments.config import Config
from pyro_bayesprune.experiments.errors import Busy, RunError
from pyro_bayesprune.models.module import Masks, Weights
from pyro_bayesprune.training.saving import pack, read_table, unpack
from pyro_bayesprune.training.state import State

DATA = "data.sha256"
DEVICES = "devices.json"
ANALYSIS = "analysis.json"
CHECKPOINT = "checkpoint.pt"
EARLY = "early.pt"  # a checkpoint of the state to which a restart returns
WEIGHTS = "weights.safetensors"
CHECKED = ("config.json", "history.csv", WEIGHTS)  # SHA-256 in result.json
T = TypeVar("T")
Rows = list[dict[str, Any]]  # the epochs of a history
AGAIN = "Move the folder away and run the configuration again."


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a run folder, or raise Busy; remove partial files of a killed process."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "lock", timeout=0):
            for partial in folder.glob("*.partial"):
                partial.unlink()
            yield
    except Timeout:
        raise Busy(f"another process is working on {folder}") from None


def tidy(folder: Path) -> None:
    """Remove the files that a finished run does not need, unless the folder is read-only."""
    unneeded = [folder / name for name in (CHECKPOINT, EARLY, DATA, DEVICES, "lock")]
    with suppress(OSError):
        for path in (*unneeded, *folder.glob("*.partial")):
            path.unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Rename a damaged file to a name that no other file has, and return it."""
    names = (path.with_name(f"{path.name}.damaged{count or ''}") for count in itertools.count())
    return path.rename(next(name for name in names if not name.exists()))


def write_config(folder: Path, config: Config) -> None:
    """Write config.json; raise a RunError if the folder contains another configuration."""
    path = folder / "config.json"
    if path.exists() and read_config(folder) != config:
        raise RunError(f"{path} is not the configuration of this run: it was changed or moved")
    write_atomically(path, (json.dumps(config.to_dict(), indent=2) + "\n").encode())


def check_data(folder: Path, digest: str) -> None:
    """Write the digest of the data; raise a RunError if the run was begun on other data."""
    path = folder / DATA
    if path.exists() and path.read_text() != digest and (folder / CHECKPOINT).exists():
        raise RunError(f"{folder} was begun on other data: the data set has changed. {AGAIN}")
    write_atomically(path, digest.encode())


def note_device(folder: Path, device: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the devices on which the run was computed so far, in order, and this one."""
    path, before = folder / DEVICES, []
    if path.exists() and (folder / CHECKPOINT).exists():
        before = _read(path, json.loads)
    used = before if before[-1:] == [device] else [*before, device]
    write_atomically(path, json.dumps(used).encode())
    return used


def _read(path: Path, parse: Callable[[bytes], T]) -> T:
    """Return the parsed content of a file. That of a finished run must match its SHA-256."""
    try:
        content = path.read_bytes()
        if path.name in CHECKED and is_finished(path.parent):
            expected = read_result(path.parent).get(f"{path.stem}_sha256")
            if expected not in (None, sha256(content)):
                raise ValueError(f"its checksum is not that of result.json. {AGAIN}")
        return parse(content)
    except FileNotFoundError:
        raise RunError(f"{path.parent} is not a finished run: {path.name} is missing") from None
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, RecursionError, SafetensorError) as error:
        raise RunError(f"{path} is damaged: {error}") from None


def _object(content: bytes) -> dict[str, Any]:
    value = json.loads(content)
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, got {type(value).__name__}")
    return value


def read_config(folder: Path) -> Config:
    """Return the configuration of a run folder."""
    return _read(folder / "config.json", lambda content: Config.from_dict(_object(content)))


def write_checkpoint(folder: Path, state: State, rows: Rows, name: str = CHECKPOINT) -> None:
    """Write the state after an epoch and the history so far, followed by their SHA-256."""
    buffer = io.BytesIO()
    parts = {name: getattr(state, name) for name in State.__dataclass_fields__}
    torch.save({"state": parts, "rows": rows}, buffer)
    write_atomically(folder / name, with_checksum(buffer.getvalue()))


def read_checkpoint(folder: Path, name: str = CHECKPOINT) -> tuple[State | None, Rows]:
    """Return the state and the history of a checkpoint; None and [] if there is no checkpoint."""
    path = folder / name
    if not path.exists():
        return None, []
    try:
        content = io.BytesIO(without_checksum(path.read_bytes()))
        parts = torch.load(content, map_location="cpu", weights_only=True)
        return State(**parts["state"]), parts["rows"]
    except ValueError as error:
        raise RunError(f"{path} is damaged: {error}") from None
    except (OSError, KeyError, TypeError, RuntimeError, pickle.UnpicklingError) as error:
        # The message of torch is omitted: it recommends loading without weights_only.
        raise RunError(f"{path} is damaged: it is not a checkpoint of this version") from error


def write_history(folder: Path, rows: Rows) -> None:
    """Write history.csv with a row for each epoch, without rounding of numbers."""
    write_atomically(folder / "history.csv", pd.DataFrame(rows).to_csv(index=False).encode())


def write_weights(path: Path, state: State) -> None:
    """Write the weights, masks and buffers of a state as a safetensors file, see `saving.pack`."""
    write_atomically(path, pack(state))


def finish(folder: Path, state: State, rows: Rows, result: dict[str, Any]) -> None:
    """Write the files of a finished run. The last one, result.json, marks the run as finished."""
    write_history(folder, rows)
    write_weights(folder / WEIGHTS, state)
    digests = {f"{Path(n).stem}_sha256": sha256((folder / n).read_bytes()) for n in CHECKED}
    write_record(folder / "result.json", result | digests)
    tidy(folder)


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a dictionary with its SHA-256 as JSON. NaN and infinite values become null."""
    record = json.loads(json.dumps(record), parse_constant=lambda constant: None)
    record["sha256"] = _checksum(record)
    write_atomically(path, (json.dumps(record, indent=2) + "\n").encode())


def read_record(path: Path, again: str = AGAIN) -> dict[str, Any]:
    """Return the dictionary that `write_record` wrote; ``again`` explains how to repeat it."""
    record = _read(path, _object)
    if record.get("sha256") not in (None, _checksum(record)):
        raise RunError(f"{path} is damaged: its checksum does not match. {again}")
    return record


def _checksum(record: dict[str, Any]) -> str:
    """Return the SHA-256 of a record without its own checksum."""
    others = {key: value for key, value in record.items() if key != "sha256"}
    return sha256(json.dumps(others, sort_keys=True).encode())


def is_finished(folder: Path) -> bool:
    """Return whether the run in a folder is finished."""
    return (folder / "result.json").exists()


def read_history(folder: Path) -> pd.DataFrame:
    """Return history.csv, a row for each epoch, with exactly the numbers that were written."""
    return _read(folder / "history.csv", read_table)


def read_weights(path: Path) -> tuple[Weights, Masks, dict[str, Tensor]]:
    """Return the weights, masks and buffers that `write_weights` wrote."""
    return _read(path, unpack)


def read_result(folder: Path) -> dict[str, Any]:
    """Return result.json of a finished run."""
    return read_record(folder / "result.json")


def read_analysis(folder: Path) -> dict[str, Any]:
    """Return the analysis that a report wrote into a run folder, or an empty dictionary."""
    path = folder / ANALYSIS
    return read_record(path, "Draw again (--draws METHOD --redraw).") if path.exists() else {}
