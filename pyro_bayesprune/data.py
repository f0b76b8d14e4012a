"""Data sets as tensors in memory: splits, normalisation, files, downloads."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors import SafetensorError
from torch import Tensor

from pyro_bayesprune.metrics import check_finite

DATA_VARIABLE = "PYRO_BAYESPRUNE_DATA"
TORCHVISION = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10"}
TENSORS = ("train_images", "train_labels", "test_images", "test_labels")
ROWS = 512  # images converted at a time: few enough to stay in a processor's cache


@dataclass(frozen=True)
class Dataset:
    """Training, validation and test examples, normalised, in memory.

    Args:
        train_x: inputs (n, ...), floating point.
        train_y: class labels (n,) int64, or real targets (n, ...).
        validation_x: held-out inputs, or None. May inform decisions.
        validation_y: their targets.
        test_x: test inputs, or None. Inform no decision.
        test_y: their targets.
        name: what to call the data set.

    Raises:
        ValueError: for lengths that differ, NaN or infinity, negative labels, one part of a pair.

    Example:
        >>> data = Dataset(torch.randn(6, 2), torch.tensor([0, 1, 2, 0, 1, 2]))
        >>> data.num_train, tuple(data.shape), data.num_classes
        (6, (2,), 3)
    """

    train_x: Tensor
    train_y: Tensor
    validation_x: Tensor | None = None
    validation_y: Tensor | None = None
    test_x: Tensor | None = None
    test_y: Tensor | None = None
    name: str = "data"

    def __post_init__(self) -> None:
        for part in ("train", "validation", "test"):
            x, y = getattr(self, f"{part}_x"), getattr(self, f"{part}_y")
            if (x is None) != (y is None):
                raise ValueError(f"{part}_x and {part}_y must be given together")
            if x is not None:
                check_pair(x, y, part)

    @property
    def shape(self) -> torch.Size:
        """Shape of one input."""
        return self.train_x.shape[1:]

    @property
    def num_train(self) -> int:
        """Number N of training examples."""
        return len(self.train_x)

    @property
    def num_classes(self) -> int:
        """Number of classes, from the training labels.

        Raises:
            ValueError: where the targets are not class labels.
        """
        if self.train_y.is_floating_point():
            raise ValueError("real targets have no classes")
        return int(self.train_y.max()) + 1

    @property
    def sha256(self) -> str:
        """SHA-256 of all examples, as they are held (normalised, split)."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return digest({name: v for name, v in values.items() if isinstance(v, Tensor)})

    def to(self, device: str | torch.device) -> "Dataset":
        """Return the data set with its tensors on ``device``."""
        moved: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, value in moved.items():
            moved[name] = value.to(device) if isinstance(value, Tensor) else value
        return Dataset(**moved)


Pair = tuple[Tensor, Tensor]


def digest(tensors: Mapping[str, Tensor], header: str = "") -> str:
    """Return the SHA-256 of named tensors behind a text: it finds damage, it proves no origin."""
    found = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.numpy().data)
    return found.hexdigest()


def check_pair(x: Tensor, y: Tensor, part: str = "train") -> None:
    """Raise a ValueError unless ``x`` and ``y`` are equally many finite inputs and targets."""
    if not (isinstance(x, Tensor) and isinstance(y, Tensor)):
        raise ValueError(f"{part} data must be tensors, got {type(x).__name__}, {type(y).__name__}")
    for values in (x, y):
        if values.layout != torch.strided or values.is_complex() or not values.dim():
            told = f"{values.dtype} of shape {tuple(values.shape)}, {values.layout}"
            raise ValueError(f"{part} data must be dense and real, an example a row, got {told}")
    if not len(x) or len(x) != len(y):
        raise ValueError(f"{part}: inputs and targets must be equally many, got {len(x)}, {len(y)}")
    check_finite(f"{part} inputs", x)
    check_finite(f"{part} targets", y)
    if not y.is_floating_point() and int(y.min()) < 0:
        raise ValueError(f"{part} labels must not be negative, got {int(y.min())}")


def train_part(data: Dataset | Pair) -> Pair:
    """Return the training inputs and targets of a `Dataset` or of a pair ``(x, y)``."""
    if isinstance(data, Dataset):
        return data.train_x, data.train_y
    if not (isinstance(data, tuple) and len(data) == 2):
        raise ValueError(f"data must be a Dataset or a pair (x, y), got {type(data).__name__}")
    check_pair(*data)
    return data


def random_stream(seed: int, purpose: str, epoch: int = 0) -> torch.Generator:
    """Return the generator of one purpose (data order, pruning, …) at one epoch.

    Streams depend on nothing but their arguments: methods that share a seed share the streams they
    both use, and a training that goes on needs no random state from the past.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}/{epoch}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def held_out(labels: Tensor, share: float, seed: int) -> Tensor:
    """Return a bool tensor (n,) that marks a stratified ``share`` of the examples of each class.

    One example of each class at least is left unmarked: no class is unknown to training.
    """
    generator = random_stream(seed, "validation")
    marked = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = (labels == label).nonzero().squeeze(1)
        count = min(round(share * len(members)), len(members) - 1)
        marked[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return marked


def split(
    tensors: Mapping[str, Tensor], *, validation: float = 0.1, seed: int = 0, name: str = "data"
) -> Dataset:
    """Return the `Dataset` of raw uint8 images: held-out part, normalised by training statistics.

    Every channel is scaled to zero mean and unit variance over the training images (those that are
    left after the held-out ones are taken away); nothing else is done to them.

    Args:
        tensors: ``train_images`` uint8 (n, c, h, w), ``train_labels`` int64 (n,), ``test_images``,
            ``test_labels``.
        validation: share of the training examples that is held out; 0 holds none out.
        seed: decides which are held out.
        name: what to call the data set.
    """
    if not 0 <= validation < 1:
        raise ValueError(f"validation must be in [0, 1), got {validation}")
    images, labels = tensors["train_images"], tensors["train_labels"]
    out = held_out(labels, validation, seed)
    kept, held = (~out).nonzero().squeeze(1), out.nonzero().squeeze(1)
    mean, std = _channel_statistics(images, kept)

    def part(images: Tensor, labels: Tensor, rows: Tensor) -> Pair:
        return _normalised(images, rows, mean, std), labels[rows]

    validation_x, validation_y = part(images, labels, held) if len(held) else (None, None)
    test = tensors["test_images"], tensors["test_labels"]
    test_x, test_y = part(*test, torch.arange(len(test[1])))
    train_x, train_y = part(images, labels, kept)
    return Dataset(train_x, train_y, validation_x, validation_y, test_x, test_y, name=name)


def _channel_statistics(images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel over ``rows``, shaped (c, 1, 1)."""
    counts = torch.zeros(images.shape[1], 256, dtype=torch.float64)
    for chosen in rows.split(ROWS):
        for channel, pixels in enumerate(images[chosen].transpose(0, 1)):
            counts[channel] += torch.bincount(pixels.flatten(), minlength=256)
    weights = counts / counts.sum(1, keepdim=True)
    values = torch.arange(256, dtype=torch.float64)
    mean = weights @ values
    std = (weights * (values - mean[:, None]).square()).sum(1).sqrt()
    std[std == 0] = 1  # a channel of one colour: centred, not divided by zero
    dtype = torch.get_default_dtype()
    return mean.to(dtype)[:, None, None], std.to(dtype)[:, None, None]


def _normalised(images: Tensor, rows: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return the images at ``rows``, normalised; a few at a time, so that nothing is held twice."""
    values = torch.empty(len(rows), *images.shape[1:])
    for some, chosen in zip(values.split(ROWS), rows.split(ROWS), strict=True):
        some.copy_(images[chosen]).sub_(mean).div_(std)
    return values


def load_dataset(
    name: str,
    data_dir: str | Path | None = None,
    *,
    validation: float = 0.1,
    seed: int = 0,
) -> Dataset:
    """Return a data set by name, or from a file in the project's format.

    ``digits`` (8x8, from scikit-learn) needs no file. The others are read from
    ``<data_dir>/<name>.safetensors``; where that is missing, torchvision downloads them once.

    Args:
        name: ``digits``, ``mnist``, ``fashion_mnist``, ``cifar10``, or the path of a file.
        data_dir: folder of the files; by default the environment variable
            ``PYRO_BAYESPRUNE_DATA``, or a cache folder of the platform's convention.
        validation: share of the training set that is held out, stratified by class.
        seed: decides which examples are held out.

    Raises:
        ValueError: for an unknown name or a file that is not in the format.
        OSError: if a download fails; the message says what to do.
    """
    if name == "digits":
        return split(_digits(), validation=validation, seed=seed, name=name)
    path = fetch(name, data_dir) if name in TORCHVISION else Path(name)
    if not path.is_file():
        known = ", ".join(["digits", *TORCHVISION])
        raise ValueError(f"unknown data set {name!r}: expected {known} or the path of a file")
    return split(read_file(path), validation=validation, seed=seed, name=path.stem)


def _digits() -> dict[str, Tensor]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images * (255 / 16)).round().to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(bunch.target).long()
    test = held_out(labels, 0.2, seed=0)
    return dict(
        zip(TENSORS, (images[~test], labels[~test], images[test], labels[test]), strict=True)
    )


def data_folder(data_dir: str | Path | None = None) -> Path:
    """Return the data folder: the argument, ``PYRO_BAYESPRUNE_DATA``, or the platform's cache."""
    from platformdirs import user_cache_path

    return Path(data_dir or os.environ.get(DATA_VARIABLE) or user_cache_path("pyro_bayesprune"))


def fetch(name: str, data_dir: str | Path | None = None) -> Path:
    """Return the file of a data set, downloading and writing it once where it is missing.

    Raises:
        ValueError: if torchvision is not asked for this name.
        OSError: if the download fails; the message says what to do.
    """
    if name not in TORCHVISION:
        raise ValueError(f"cannot fetch {name!r}: expected one of {', '.join(TORCHVISION)}")
    path = data_folder(data_dir) / f"{name}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):  # the runs of a grid may all want it at once
            if not path.exists():
                _download(name, path)
    return path


def _download(name: str, path: Path) -> None:
    """Let torchvision download a data set, and write it to ``path``."""
    import torchvision

    source = getattr(torchvision.datasets, TORCHVISION[name])
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        try:
            parts = [source(folder, train=train, download=True) for train in (True, False)]
        except (OSError, RuntimeError, HTTPException) as error:
            raise OSError(
                f"could not download {name} ({error}). Put {path.name} into {path.parent}, or name "
                f"the folder that has it by data_dir (--data-dir) or {DATA_VARIABLE}."
            ) from error
        train, test = (_tensors(part) for part in parts)
        write_file(path, dict(zip(TENSORS, (*train, *test), strict=True)))


def _tensors(images: Any) -> Pair:  # noqa: ANN401  (one of torchvision's data sets)
    """Return images (n, c, h, w) and labels; torchvision has (n, h, w) or (n, h, w, c)."""
    pixels = torch.as_tensor(images.data)
    pixels = pixels.unsqueeze(1) if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2)
    return pixels.contiguous(), torch.as_tensor(images.targets).long()


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
        save_file(dict(tensors), partial, {"sha256": digest(tensors)})
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
    except (SafetensorError, OSError) as error:
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
