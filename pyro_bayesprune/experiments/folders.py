"""The run folder: what lies in it, written atomically, locked, and read again."""

import io
import itertools
import json
import math
import pickle
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pyro_bayesprune._utils.files import (
    sha256,
    with_checksum,
    without_checksum,
    write_atomically,
)
from pyro_bayesprune.experiments.config import Config
from pyro_bayesprune.experiments.errors import Busy, RunError
from pyro_bayesprune.models.module import Masks, Weights
from pyro_bayesprune.training.state import State

DATA = "data.sha256"
ANALYSIS = "analysis.json"
EARLY = "early.pt"  # the state that a restart returns to, in the form of a checkpoint
CHECKED = ("config.json", "history.csv", "weights.safetensors")  # result.json has their SHA-256
AGAIN = "Move the folder away and run the configuration again."


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder against other processes; take away what a killed one left half written.

    Raises:
        Busy: if another process holds it.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise Busy(f"another process is working on {folder}") from None
    try:
        for partial in folder.glob("*.partial"):
            partial.unlink()
        yield
    finally:
        lock.release()


def tidy(folder: Path) -> None:
    """Take away what a finished run needs no more, where a kill prevented that.

    In a folder that cannot be written it stays; it does no harm.
    """
    with suppress(OSError):
        for name in ("checkpoint.pt", EARLY, DATA, "lock"):
            (folder / name).unlink(missing_ok=True)
        for partial in folder.glob("*.partial"):
            partial.unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Give a damaged file another name, which no other file has, and return it."""
    names = (path.with_name(f"{path.name}.damaged{count or ''}") for count in itertools.count())
    free = next(name for name in names if not name.exists())
    return path.rename(free)


def write_config(folder: Path, config: Config) -> None:
    """Write config.json.

    Raises:
        RunError: if the folder holds another configuration.
    """
    path = folder / "config.json"
    if path.exists() and read_config(folder) != config:
        raise RunError(f"{path} is not the configuration of this run: it was changed or moved")
    write_atomically(path, (json.dumps(config.to_dict(), indent=2) + "\n").encode())


def check_data(folder: Path, digest: str) -> None:
    """Write data.sha256, the digest of what an unfinished run trains on.

    Raises:
        RunError: if the run was begun on other data.
    """
    path = folder / DATA
    if path.exists() and (path.read_text() != digest) and (folder / "checkpoint.pt").exists():
        raise RunError(f"{folder} was begun on other data: the data set has changed. {AGAIN}")
    write_atomically(path, digest.encode())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise RunError(f"{path.parent} is not a finished run: {path.name} is missing") from None
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from None


def _checked(path: Path) -> bytes:
    """Return a file's content; that of a finished run must be the one that result.json names."""
    content = _read(path)
    if is_finished(path.parent):
        expected = read_result(path.parent).get(f"{path.stem}_sha256")
        if expected is not None and sha256(content) != expected:
            raise RunError(f"{path} is damaged: its checksum is not that of result.json. {AGAIN}")
    return content


def _object(path: Path, content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged: {error}") from None
    if not isinstance(value, dict):
        raise RunError(f"{path} is damaged: expected an object, got {type(value).__name__}")
    return value


def read_config(folder: Path) -> Config:
    """Return the configuration of a run folder.

    Raises:
        RunError: if the file is missing or damaged.
    """
    path = folder / "config.json"
    try:
        return Config.from_dict(_object(path, _checked(path)))
    except (ValueError, TypeError) as error:
        raise RunError(f"{path} is damaged: {error}") from None


def write_checkpoint(
    folder: Path, state: State, rows: list[dict[str, Any]], name: str = "checkpoint.pt"
) -> None:
    """Write a checkpoint: state after an epoch and history so far, with a SHA-256 behind."""
    buffer = io.BytesIO()
    parts = {name: getattr(state, name) for name in State.__dataclass_fields__}
    torch.save({"state": parts, "rows": rows}, buffer)
    write_atomically(folder / name, with_checksum(buffer.getvalue()))


def read_checkpoint(
    folder: Path, name: str = "checkpoint.pt"
) -> tuple[State, list[dict[str, Any]]] | None:
    """Return the state and history of a checkpoint, or None where there is none.

    Raises:
        RunError: if the file is damaged.
    """
    path = folder / name
    if not path.exists():
        return None
    try:
        parts = torch.load(io.BytesIO(without_checksum(path.read_bytes())), weights_only=True)
        return State(**parts["state"]), parts["rows"]
    except ValueError as error:
        raise RunError(f"{path} is damaged: {error}") from None
    except (OSError, KeyError, TypeError, RuntimeError, pickle.UnpicklingError) as error:
        # torch's own words advise to load it without the safety of weights_only
        raise RunError(f"{path} is damaged: it is no checkpoint of this version") from error


def write_history(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write history.csv, a row an epoch; numbers are written so that they read back equal."""
    write_atomically(folder / "history.csv", pd.DataFrame(rows).to_csv(index=False).encode())


def write_weights(folder: Path, state: State) -> None:
    """Write weights.safetensors: weights by site, ``mask.<site>``, ``buffer.<name>``."""
    tensors = dict(state.weights)
    tensors |= {f"mask.{name}": mask for name, mask in state.masks.items()}
    tensors |= {f"buffer.{name}": buffer for name, buffer in state.buffers.items()}
    content = save({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
    write_atomically(folder / "weights.safetensors", content)


def finish(folder: Path, state: State, rows: list[dict[str, Any]], result: dict[str, Any]) -> None:
    """Write what a finished run leaves; result.json comes last and says that all is there."""
    write_history(folder, rows)
    write_weights(folder, state)
    result = result | {
        f"{Path(name).stem}_sha256": sha256((folder / name).read_bytes()) for name in CHECKED
    }
    write_record(folder / "result.json", result)
    tidy(folder)


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a dictionary as JSON, with its SHA-256 in it; NaN and infinity become null."""
    record = _json_value(record)
    record["sha256"] = sha256(_canonical(record))
    write_atomically(path, (json.dumps(record, indent=2) + "\n").encode())


def read_record(path: Path, again: str = AGAIN) -> dict[str, Any]:
    """Return what `write_record` wrote.

    Raises:
        RunError: if the file is missing or damaged; ``again`` says what to do then.
    """
    record = _object(path, _read(path))
    if record.get("sha256") not in (None, sha256(_canonical(record))):
        raise RunError(f"{path} is damaged: its checksum does not fit. {again}")
    return record


def _json_value(value: Any) -> Any:  # noqa: ANN401
    """Return a value as JSON has it: no NaN, no infinity, but null."""
    if isinstance(value, dict):
        return {key: _json_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_value(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _canonical(result: dict[str, Any]) -> bytes:
    """Return all of a result but its own checksum, as it is hashed."""
    others = {key: value for key, value in result.items() if key != "sha256"}
    return json.dumps(others, sort_keys=True).encode()


def is_finished(folder: Path) -> bool:
    """Say whether the run in ``folder`` is done."""
    return (folder / "result.json").exists()


def read_history(folder: Path) -> pd.DataFrame:
    """Return history.csv, a row an epoch (the engine reads floats as Python writes them).

    Raises:
        RunError: if the file is missing or damaged.
    """
    content = _checked(folder / "history.csv")
    try:
        return pd.read_csv(io.BytesIO(content), engine="python")
    except ValueError as error:
        raise RunError(f"{folder / 'history.csv'} is damaged: {error}") from None


def read_weights(folder: Path) -> tuple[Weights, Masks, dict[str, Tensor]]:
    """Return weights, masks and buffers of weights.safetensors.

    Raises:
        RunError: if the file is damaged or not the one that result.json names.
    """
    path = folder / "weights.safetensors"
    try:
        tensors = load(_checked(path))
    except SafetensorError as error:
        raise RunError(f"{path} is damaged: {error}") from None
    parts: dict[str, dict[str, Tensor]] = {"": {}, "mask.": {}, "buffer.": {}}
    for name, tensor in tensors.items():
        prefix = next((p for p in ("mask.", "buffer.") if name.startswith(p)), "")
        parts[prefix][name.removeprefix(prefix)] = tensor
    return parts[""], parts["mask."], parts["buffer."]


def read_result(folder: Path) -> dict[str, Any]:
    """Return result.json of a finished run.

    Raises:
        RunError: if the run is not finished or the file is damaged.
    """
    return read_record(folder / "result.json")


def read_analysis(folder: Path) -> dict[str, Any]:
    """Return what a report's analysis wrote into a run folder; nothing where there is none.

    Raises:
        RunError: if the file is damaged.
    """
    path = folder / ANALYSIS
    return read_record(path, "Draw again (--draws).") if path.exists() else {}
