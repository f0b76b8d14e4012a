"""Tables of numbers with a column of targets, from CSV, npz and safetensors files."""

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
ROUNDING = 1e-12  # of means in float64, relative to the largest value
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


def load_table(
    path: Path, target: str, likelihood: str = "categorical", *, validation: float, seed: int
) -> Dataset:
    """Return a table as a data set of classes or of real targets, with its columns normalised.

    A fifth of the rows, always the same, is the test part. Every column of the inputs has zero mean
    and unit variance over the training rows. Classes are numbered in the order of their values.
    Targets of a gaussian likelihood have zero mean and unit variance over the training rows too, so
    that an RMSE is in units of their standard deviation.

    Args:
        path: a CSV file with a header, or an npz or safetensors file with arrays of one length.
        target: name of the column or array of targets. All others are inputs.
        likelihood: ``"categorical"`` for classes (n,). For other likelihoods the targets are
            numbers (n, columns).
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
    column, is_classes = columns.pop(target), likelihood == "categorical"
    if is_classes:
        strata = targets = _classes(path, target, column)
    else:
        targets = _numbers(path, "target", target, column)
        strata = targets.new_zeros(len(targets))
    if not columns:
        raise ValueError(f"{path} has no column but the target {target!r}")
    inputs = torch.cat([_numbers(path, "input", *column) for column in columns.items()], 1)
    if len(inputs) != len(targets):
        raise ValueError(f"{path}: inputs and {target!r} have {len(inputs)}, {len(targets)} rows")
    test = held_out(strata, TEST, seed=0)
    rest = (~test).nonzero()[:, 0]
    in_validation = held_out(strata[rest], validation, seed)
    train, chosen = rest[~in_validation], rest[in_validation]
    parts: tuple[Tensor, ...] = (train, chosen, test.nonzero()[:, 0])
    normal = _normalised(inputs, train)
    if not is_classes:
        targets = _normalised(targets, train) if likelihood == "gaussian" else targets.to(normal)
    pairs: list[Any] = [(normal[r], targets[r]) if len(r) else (None, None) for r in parts]
    (train_x, train_y), (validation_x, validation_y), (test_x, test_y) = pairs
    return Dataset(train_x, train_y, validation_x, validation_y, test_x, test_y, path.stem)


def _columns(path: Path) -> Columns:
    try:
        if path.suffix == ".csv":
            frame = pd.read_csv(path)
            for number, name in enumerate(map(str, frame), start=1):
                if name.startswith("Unnamed: "):  # pandas writes row numbers like this
                    raise ValueError(f"column {number} has no name: name it, or leave it out")
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
            f"such as {values[values != values.round()][0]}: for a regression, choose another "
            f"likelihood, for example --likelihood gaussian"
        )
    known, labels = np.unique(values.astype(str if values.dtype == object else values.dtype),
                              return_inverse=True)  # fmt: skip
    if not 2 <= len(known) <= len(values) / 2:
        raise ValueError(
            f"{path}: the target {name!r} must have two or more classes of several rows each, got "
            f"{len(known)} values in {len(values)} rows"
        )
    return torch.from_numpy(labels.reshape(-1)).long()


def _numbers(path: Path, role: str, name: str, values: np.ndarray) -> Tensor:
    """Return a column, or an array of columns, as float64 (n, columns)."""
    if values.dtype.kind not in "iufb" or values.ndim not in (1, 2):
        some = f"such as {values.flat[0]!r}" if values.size else f"of shape {values.shape}"
        raise ValueError(
            f"{path}: the {role} {name!r} must be numbers, (n,) or (n, columns), got "
            f"{values.dtype} of shape {values.shape}, {some}"
        )
    numbers = torch.from_numpy(values.astype(np.float64)).reshape(len(values), -1)
    if not numbers.isfinite().all():
        bad = int((~numbers.isfinite()).sum())
        raise ValueError(f"{path}: the {role} {name!r} has {bad} missing or infinite values")
    return numbers


def _normalised(inputs: Tensor, train: Tensor) -> Tensor:
    mean, std = inputs[train].mean(0), inputs[train].std(0, correction=0)
    # A constant column is only centred. Rounding may give it a deviation that is not zero.
    std[std <= ROUNDING * inputs[train].abs().amax(0)] = 1
    return ((inputs - mean) / std).to(torch.get_default_dtype())
