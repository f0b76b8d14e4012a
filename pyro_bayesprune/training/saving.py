"""A fit in a folder: a safetensors, a CSV and a JSON file, without pickle."""

import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.torch import load, save
from torch import Tensor

from pyro_bayesprune._utils.files import digest, path_of, sha256, write_atomically
from pyro_bayesprune._utils.provenance import provenance
from pyro_bayesprune.models.module import BayesianModule, Masks, Model, Weights, network
from pyro_bayesprune.training.state import State

RECORD = "fit.json"
WEIGHTS = "weights.safetensors"
HISTORY = "history.csv"
PREFIXES = ("mask.", "buffer.", "site:")


def pack(state: State) -> bytes:
    """Return a safetensors file: weights by site, ``mask.<site>`` and ``buffer.<name>``.

    A site whose own name begins with such a prefix is written as ``site:<name>``.
    """
    tensors = {
        f"site:{name}" if name.startswith(PREFIXES) else name: weight
        for name, weight in state.weights.items()
    }
    tensors |= {f"mask.{name}": mask for name, mask in state.masks.items()}
    tensors |= {f"buffer.{name}": buffer for name, buffer in state.buffers.items()}
    return save({name: t.detach().cpu().contiguous() for name, t in tensors.items()})


def unpack(content: bytes) -> tuple[Weights, Masks, dict[str, Tensor]]:
    """Return the weights, masks and buffers of a file that `pack` wrote."""
    parts: dict[str, dict[str, Tensor]] = {prefix: {} for prefix in ("", *PREFIXES)}
    for name, tensor in load(content).items():
        prefix = next((p for p in PREFIXES if name.startswith(p)), "")
        parts[prefix][name.removeprefix(prefix)] = tensor
    return parts[""] | parts["site:"], parts["mask."], parts["buffer."]


def read_table(content: bytes) -> pd.DataFrame:
    """Return a history, a row for each epoch, with exactly the numbers that were written."""
    return pd.read_csv(io.BytesIO(content), engine="python") if content.strip() else pd.DataFrame()


def write_fit(
    folder: str | Path, model: Model, state: State, history: pd.DataFrame, **record: object
) -> Path:
    """Write a state, its history and a record into a folder; `Fit.save` documents it."""
    folder = path_of(folder)
    if folder.exists() and not (folder / RECORD).exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} has other content; a fit needs a folder of its own")
    files = {WEIGHTS: pack(state), HISTORY: history.to_csv(index=False).encode()}
    for name, content in files.items():
        write_atomically(folder / name, content)
    record |= {"epoch": state.epoch, "log_bf": state.log_bf, **_identity(model)}
    record["sites"] = list(state.weights)  # safetensors has an order of its own
    record["sha256"] = {name: sha256(content) for name, content in files.items()}
    text = json.dumps(record | provenance(), indent=2) + "\n"
    write_atomically(folder / RECORD, text.encode())
    return folder


def read_fit(folder: str | Path, model: Model) -> tuple[State, pd.DataFrame, dict[str, Any]]:
    """Return what `write_fit` wrote; `Fit.load` documents it."""
    folder = path_of(folder)
    try:
        record = json.loads((folder / RECORD).read_bytes())
        content = {name: (folder / name).read_bytes() for name in record["sha256"]}
    except OSError as error:
        reason = f"{Path(error.filename).name}: {error.strerror}"
        raise ValueError(f"{folder} contains no complete fit ({reason})") from None
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{folder / RECORD} is damaged: {error!r}") from None
    for name, expected in record["sha256"].items():
        if sha256(content[name]) != expected:
            raise ValueError(f"{folder / name} is damaged: its checksum is not that of {RECORD}")
    weights, masks, buffers = unpack(content[WEIGHTS])
    _check_model(model, record, folder)
    weights, masks = ({n: of[n] for n in record["sites"] if n in of} for of in (weights, masks))
    state = State(record["epoch"], weights, masks, buffers, {}, record["log_bf"])
    return state, read_table(content[HISTORY]), record


def _identity(model: Model) -> dict[str, Any]:
    """The shapes of the parameters of a lifted network, and the digest of frozen values."""
    module = network(model)
    if not isinstance(module, BayesianModule):
        return {}  # the sites of other models are known only with data, and are checked then
    shapes = {name: list(p.shape) for name, p in module.named_weights().items()}
    return {"parameters": shapes, "constants": digest(module.constants())}


def _check_model(model: Model, record: dict[str, Any], folder: Path) -> None:
    """Raise a ValueError if a lifted network has other parameters than the fit in a folder."""
    identity = _identity(model)
    saved, expected = (of.get("parameters", {}) for of in (record, identity))
    for name in sorted(set(saved) | set(expected)):
        if saved.get(name) != expected.get(name):
            shapes = [of.get(name, "no such parameter") for of in (saved, expected)]
            raise ValueError(
                f"{folder} is the fit of another network: {name!r} is {shapes[0]} there and "
                f"{shapes[1]} in the model"
            )
    if identity.get("constants") != record.get("constants"):
        raise ValueError(f"{folder} was fitted with other values of the frozen parameters")
