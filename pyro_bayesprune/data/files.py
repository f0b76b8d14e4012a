"""The project's format of data files: four tensors and a checksum."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from pyro_bayesprune._utils.files import digest

TENSORS = ("train_images", "train_labels", "test_images", "test_labels")


def write_file(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a data set in the project's format with a checksum, beside its place and then into it.

    Raises:
        ValueError: for what is no tensor.
    """
    from safetensors.torch import save_file

    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name} must be a tensor, got {type(tensor).__name__}")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        save_file(
            {n: t.detach().clone().contiguous() for n, t in tensors.items()},
            partial,
            {"sha256": digest(tensors)},
        )
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_file(path: Path) -> dict[str, Tensor]:
    """Return the four tensors of a data file.

    Raises:
        ValueError: if the file is damaged or not in the format; the message names what is wrong.
    """
    from safetensors.torch import load

    try:
        content = path.read_bytes()  # not mapped: page by page it would take longer
        tensors = load(content)
    except (SafetensorError, OSError, KeyError, RuntimeError) as error:  # KeyError: a dtype
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    if _stated_digest(content) not in (None, digest(tensors)):
        raise ValueError(f"{path} is damaged: its checksum does not fit. Get or write it again")
    missing = [name for name in TENSORS if name not in tensors]
    if missing:
        found = sorted(tensors)
        raise ValueError(f"{path}: the tensor {missing[0]!r} is missing, found {found}")
    for part in ("train", "test"):
        _check_part(path, part, tensors[f"{part}_images"], tensors[f"{part}_labels"])
    shapes = [tuple(tensors[f"{part}_images"].shape[1:]) for part in ("train", "test")]
    if shapes[0] != shapes[1]:
        raise ValueError(f"{path}: train and test images differ in shape, {shapes[0]}, {shapes[1]}")
    _check_test_labels(path, tensors["train_labels"], tensors["test_labels"])
    return tensors


def _stated_digest(content: bytes) -> str | None:
    """Return the checksum in a safetensors file's header; a user's own file may have none."""
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size]).get("__metadata__", {}).get("sha256")


def _check_part(path: Path, part: str, images: Tensor, labels: Tensor) -> None:
    expected = "uint8 (n, channels, height, width)"
    if images.dtype != torch.uint8 or images.dim() != 4 or not images.numel():
        found = f"{images.dtype} of shape {tuple(images.shape)}"
        raise ValueError(f"{path}: {part}_images must be {expected}, got {found}")
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        found = f"{labels.dtype} of shape {tuple(labels.shape)}"
        raise ValueError(f"{path}: {part}_labels must be int64 ({len(images)},), got {found}")
    if int(labels.min()) < 0:
        raise ValueError(f"{path}: {part}_labels must not be negative, got {int(labels.min())}")
    if part == "train" and not 1 <= int(labels.max()) < len(labels):
        raise ValueError(
            f"{path}: train_labels must be classes 0, 1, …, two or more and not more than the "
            f"{len(labels)} images, got {int(labels.max())} as the largest"
        )


def _check_test_labels(path: Path, train: Tensor, test: Tensor) -> None:
    if int(test.max()) > int(train.max()):
        raise ValueError(
            f"{path}: test_labels must be among the training classes 0 to {int(train.max())}, "
            f"got {int(test.max())}"
        )
