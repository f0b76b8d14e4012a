"""Data sets by name: digits from scikit-learn, others from files that torchvision downloads."""

import os
import tempfile
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from pyro_bayesprune._utils.files import path_of
from pyro_bayesprune.data.dataset import Dataset
from pyro_bayesprune.data.files import TENSORS, read_file, write_file
from pyro_bayesprune.data.regression import diabetes
from pyro_bayesprune.data.splitting import held_out, split
from pyro_bayesprune.data.tables import is_table, load_table

DATA_VARIABLE = "PYRO_BAYESPRUNE_DATA"
SKLEARN = ("digits", "diabetes")  # these need no file and no network
TORCHVISION = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10"}


def load_dataset(
    name: str,
    data_dir: str | Path | None = None,
    *,
    validation: float = 0.1,
    seed: int = 0,
    target_column: str = "",
    likelihood: str = "categorical",
) -> Dataset:
    """Return a data set by name, or from a file: images in the project's format, or a table.

    ``digits`` (8x8) and ``diabetes`` (a regression), both from scikit-learn, need no file. The
    others are read from ``<data_dir>/<name>.safetensors``. If this file is missing, torchvision
    downloads the data.

    Args:
        name: ``digits``, ``diabetes``, ``mnist``, ``fashion_mnist``, ``cifar10``, or the path of a
            file.
        data_dir: folder of the files; by default the environment variable
            ``PYRO_BAYESPRUNE_DATA``, or a cache folder of the platform's convention.
        validation: share of the training set in the validation part, stratified by class.
        seed: selects the examples of the validation part.
        target_column: name of the column of targets in a table, see `load_table`.
        likelihood: what the targets of a table are: classes (categorical) or numbers (any other).

    Raises:
        ValueError: for an unknown name or a file that is not in the format.
        OSError: if a download fails; the message says what to do.
    """
    if name in (*SKLEARN, *TORCHVISION) and target_column:
        raise ValueError(
            f"target_column names a column of a file, and {name} has none; got {target_column!r}"
        )
    if name == "diabetes":
        return diabetes(validation=validation, seed=seed)
    if name == "digits":
        return split(_digits(), validation=validation, seed=seed, name=name)
    path = fetch(name, data_dir) if name in TORCHVISION else path_of(name)
    if not path.is_file():
        known = ", ".join([*SKLEARN, *TORCHVISION])
        raise ValueError(f"unknown data set {name!r}: expected {known} or the path of a file")
    if is_table(path):
        return load_table(path, target_column, likelihood, validation=validation, seed=seed)
    return split(read_file(path), validation=validation, seed=seed, name=path.stem)


def _digits() -> dict[str, Tensor]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images * (255 / 16)).round().to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(bunch.target).long()
    test = held_out(labels, 0.2, seed=0)
    parts = images[~test], labels[~test], images[test], labels[test]
    return dict(zip(TENSORS, parts, strict=True))


def data_folder(data_dir: str | Path | None = None) -> Path:
    """Return the data folder: the argument, ``PYRO_BAYESPRUNE_DATA``, or the platform's cache."""
    from platformdirs import user_cache_path

    chosen = data_dir or os.environ.get(DATA_VARIABLE) or user_cache_path("pyro_bayesprune")
    return path_of(chosen)


def fetch(name: str, data_dir: str | Path | None = None) -> Path:
    """Return the file of a data set. Download the data and write the file if it is missing.

    Raises:
        ValueError: if the name is not in `TORCHVISION`.
        OSError: if the download fails; the message says what to do.
    """
    if name not in TORCHVISION:
        raise ValueError(f"cannot fetch {name!r}: expected one of {', '.join(TORCHVISION)}")
    path = data_folder(data_dir) / f"{name}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):  # several runs of a grid may need it at once
            if not path.exists():
                _download(name, path)
    return path


def _download(name: str, path: Path) -> None:
    """Download a data set with torchvision and write it to ``path``."""
    import torchvision

    source = getattr(torchvision.datasets, TORCHVISION[name])
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        try:
            parts = [source(folder, train=train, download=True) for train in (True, False)]
        except (OSError, RuntimeError, HTTPException) as error:
            reason = " ".join(str(error).split())
            raise OSError(
                f"could not download {name} ({reason}). Put {path.name} into {path.parent}, or "
                f"name the folder that has it by data_dir (--data-dir) or {DATA_VARIABLE}."
            ) from error
        train, test = (_tensors(part) for part in parts)
        write_file(path, dict(zip(TENSORS, (*train, *test), strict=True)))


def _tensors(images: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401  (one of torchvision's data sets)
    """Return images (n, c, h, w) and labels; torchvision has (n, h, w) or (n, h, w, c)."""
    pixels = torch.as_tensor(images.data)
    pixels = pixels.unsqueeze(1) if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2)
    return pixels.contiguous(), torch.as_tensor(images.targets).long()
