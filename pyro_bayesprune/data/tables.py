"""Tables of numbers with a column of classes, from CSV, npz and safetensors files."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from torch import Tensor

from pyro_bayesprune.data.dataset import Dataset
from pyro_bayesprune.data.files import TENSORS
from pyro_bayesprune.data.splitting import held_out

TEST = 0.2  # share of the examples in the test part, always the same ones
Columns = dict[str, np.ndarray]


def is_table(path: Path) -> bool:
    """Return whether a file has columns rather than the tensors of the project's image format."""
    if path.suffix != ".safetensors":
        return path.suffix in (".csv", ".npz")
    try:
        from safetensors import safe_open

        with safe_open(path, "np") as file:
            return not any(name in TENSORS for name in file.keys())  # noqa: SIM118
    except (SafetensorError, OSError):
        return False  # `read_file` says what is wrong


def load_table(path: Path, target: str, *, validation: float, seed: int) -> Dataset:
    """Return a table as a data set of classes, with its columns normalised.

    A fifth of the rows, always the same, is the test part. Every column of the inputs has zero mean
    and unit variance over the training rows. Classes are numbered in the order of their values.

    Args:
        path: a CSV file with a header, or an npz or safetensors file with arrays of one length.
        target: name of the column or array of classes. All others are inputs.
        validation: share of the other rows in the validation part, stratified by class.
        seed: selects the rows of the validation part.

    Raises:
        ValueError: if the file does not fit; the message names the column.
    """
    columns = _columns(path)
    if target not in columns:
        names = ", ".join(columns)
        problem = f"has no column {target!r}" if target else "needs the name of its target"
        raise ValueError(f"{path} {problem}: choose --target-column from {names}")
    labels = _classes(path, target, columns.pop(target))
    if not columns:
        raise ValueError(f"{path} has no column but the target {target!r}")
    inputs = torch.cat([_numbers(path, name, values) for name, values in columns.items()], 1)
    if len(inputs) != len(labels):
        raise ValueError(f"{path}: inputs and {target!r} have {len(inputs)}, {len(labels)} rows")
    test = held_out(labels, TEST, seed=0)
    rest = (~test).nonzero()[:, 0]
    in_validation = held_out(labels[rest], validation, seed)
    train, chosen = rest[~in_validation], rest[in_validation]
    parts: tuple[Tensor, ...] = (train, chosen, test.nonzero()[:, 0])
    normal = _normalised(inputs, train)
    pairs: list[Any] = [(normal[r], labels[r]) if len(r) else (None, None) for r in parts]
    (train_x, train_y), (validation_x, validation_y), (test_x, test_y) = pairs
    return Dataset(train_x, train_y, validation_x, validation_y, test_x, test_y, path.stem)


def _columns(path: Path) -> Columns:
    try:
        if path.suffix == ".csv":
            frame = pd.read_csv(path)
            return {str(name): frame[name].to_numpy() for name in frame}
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return dict(file.items())
        from safetensors.numpy import load_file

        return load_file(path)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


def _classes(path: Path, name: str, values: np.ndarray) -> Tensor:
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"{path}: the target {name!r} must be a column, got shape {values.shape}")
    if pd.isna(values).any():
        raise ValueError(f"{path}: the target {name!r} has {pd.isna(values).sum()} missing values")
    if values.dtype.kind == "f" and (values != values.round()).any():
        raise ValueError(
            f"{path}: the target {name!r} must be classes (integers or words), got real numbers "
            f"such as {values[values != values.round()][0]}"
        )
    known, labels = np.unique(values.astype(str if values.dtype == object else values.dtype),
                              return_inverse=True)  # fmt: skip
    if not 2 <= len(known) <= len(values) / 2:
        raise ValueError(
            f"{path}: the target {name!r} must have two or more classes of several rows each, got "
            f"{len(known)} values in {len(values)} rows"
        )
    return torch.from_numpy(labels.reshape(-1)).long()


def _numbers(path: Path, name: str, values: np.ndarray) -> Tensor:
    """Return a column, or an array of columns, as float64 (n, columns)."""
    if values.dtype.kind not in "iufb" or values.ndim not in (1, 2):
        some = f"such as {values.flat[0]!r}" if values.size else f"of shape {values.shape}"
        raise ValueError(
            f"{path}: the input {name!r} must be numbers, (n,) or (n, columns), got "
            f"{values.dtype} of shape {values.shape}, {some}"
        )
    numbers = torch.from_numpy(values.astype(np.float64)).reshape(len(values), -1)
    if not numbers.isfinite().all():
        bad = int((~numbers.isfinite()).sum())
        raise ValueError(f"{path}: the input {name!r} has {bad} missing or infinite values")
    return numbers


def _normalised(inputs: Tensor, train: Tensor) -> Tensor:
    mean, std = inputs[train].mean(0), inputs[train].std(0, correction=0)
    std[std == 0] = 1  # a constant column is only centred
    return ((inputs - mean) / std).to(torch.get_default_dtype())
