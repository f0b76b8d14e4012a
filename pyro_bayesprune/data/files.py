"""The project's format of data files: four tensors and a checksum."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from pyro_bayesprune._utils.files import digest, write_atomically

TENSORS = ("train_images", "train_labels", "test_images", "test_labels")


def write_file(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a data set in the project's format with a checksum, completely or not at all.

    Raises:
        ValueError: if a value is not a tensor.
    """
    from safetensors.torch import save

    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name} must be a tensor, got {type(tensor).__name__}")
    contiguous = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, save(contiguous, {"sha256": digest(tensors)}))


def read_file(path: Path) -> dict[str, Tensor]:
    """Return the four tensors of a data file.

    Raises:
        ValueError: if the file is damaged or not in the format; the message names the problem.
    """
    from safetensors.torch import load

    try:
        content = path.read_bytes()  # faster than a mapped file, which is read page by page
        tensors = load(content)
    except (SafetensorError, OSError, KeyError, RuntimeError) as error:  # KeyError: a dtype
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    if _stated_digest(content) not in (None, digest(tensors)):
        raise ValueError(f"{path} is damaged: its checksum does not fit. Get or write it again")
    missing = [name for name in TENSORS if name not in tensors]
    if missing:
        raise ValueError(
            f"{path}: the tensor {missing[0]!r} is missing, the file has {sorted(tensors)}"
        )
    train_images, train_labels, test_images, test_labels = (tensors[name] for name in TENSORS)
    _check_part(path, "train", train_images, train_labels)
    _check_part(path, "test", test_images, test_labels)
    shapes = tuple(train_images.shape[1:]), tuple(test_images.shape[1:])
    if shapes[0] != shapes[1]:
        raise ValueError(f"{path}: train and test images differ in shape, {shapes[0]}, {shapes[1]}")
    largest, largest_test = int(train_labels.max()), int(test_labels.max())
    if largest_test > largest:
        raise ValueError(
            f"{path}: test_labels must be among the training classes 0 to {largest}, "
            f"got {largest_test}"
        )
    return tensors


def _stated_digest(content: bytes) -> str | None:
    """Return the checksum in the header of a safetensors file, or None."""
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size]).get("__metadata__", {}).get("sha256")


def _check_part(path: Path, part: str, images: Tensor, labels: Tensor) -> None:
    expected = "uint8 (n, channels, height, width)"
    if images.dtype != torch.uint8 or images.dim() != 4 or not images.numel():
        actual = f"{images.dtype} of shape {tuple(images.shape)}"
        raise ValueError(f"{path}: {part}_images must be {expected}, got {actual}")
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        actual = f"{labels.dtype} of shape {tuple(labels.shape)}"
        raise ValueError(f"{path}: {part}_labels must be int64 ({len(images)},), got {actual}")
    if int(labels.min()) < 0:
        raise ValueError(f"{path}: {part}_labels must not be negative, got {int(labels.min())}")
    if part == "train" and not 1 <= int(labels.max()) < len(labels):
        raise ValueError(
            f"{path}: train_labels must be classes 0, 1, …, two or more and not more than the "
            f"{len(labels)} images, got {int(labels.max())} as the largest"
        )
