"""Data sets as tensors in memory."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pyro_bayesprune._utils.checks import check_finite
from pyro_bayesprune._utils.files import digest


@dataclass(frozen=True, repr=False)
class Dataset:
    """Training, validation and test examples, normalised, in memory.

    Args:
        train_x: inputs (n, ...), floating point.
        train_y: class labels (n,) int64, or real targets (n, ...).
        validation_x: validation inputs, or None. They may inform decisions.
        validation_y: validation targets.
        test_x: test inputs, or None. They inform no decision.
        test_y: test targets.
        name: name of the data set.

    Raises:
        ValueError: for different lengths, NaN or infinity, negative labels, inputs without targets.

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
                for name, value in {"x": x, "y": y}.items():
                    if value.requires_grad:  # a fit must not use the caller's graph
                        object.__setattr__(self, f"{part}_{name}", value.detach())

    def __repr__(self) -> str:
        """Return a summary: numbers of examples, shape and dtype of inputs, and targets."""
        parts = {"train": self.train_x, "validation": self.validation_x, "test": self.test_x}
        counts = ", ".join(f"{len(x)} {part}" for part, x in parts.items() if x is not None)
        inputs = f"inputs {tuple(self.shape)} {str(self.train_x.dtype).removeprefix('torch.')}"
        real = self.train_y.is_floating_point()
        targets = (
            f"targets {tuple(self.train_y.shape[1:])}" if real else f"{self.num_classes} classes"
        )
        return f"Dataset({self.name!r}: {counts}; {inputs}, {targets})"

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
            ValueError: if the targets are not class labels.
        """
        if self.train_y.is_floating_point():
            raise ValueError("real targets have no classes")
        return int(self.train_y.max()) + 1

    @property
    def sha256(self) -> str:
        """SHA-256 of all examples in their normalised form, and of their split."""
        return digest(self._tensors())

    def to(self, device: str | torch.device) -> "Dataset":
        """Return the data set with its tensors on ``device``."""
        return replace(self, **{name: t.to(device) for name, t in self._tensors().items()})

    def _tensors(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}


Pair = tuple[Tensor, Tensor]


def check_pair(x: Tensor, y: Tensor, part: str = "train") -> None:
    """Raise a ValueError unless ``x`` and ``y`` are equally many finite inputs and targets."""
    if not (isinstance(x, Tensor) and isinstance(y, Tensor)):
        raise ValueError(f"{part} data must be tensors, got {type(x).__name__}, {type(y).__name__}")
    for values in (x, y):
        if values.layout != torch.strided or values.is_complex() or not values.dim():
            kind = f"{values.dtype} of shape {tuple(values.shape)}, {values.layout}"
            raise ValueError(f"{part} data must be dense and real, an example a row, got {kind}")
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
        kind = type(data).__name__
        hint = ": put its batches together, torch.cat" if hasattr(data, "batch_size") else ""
        raise ValueError(f"data must be a Dataset or a pair (x, y), got {kind}{hint}")
    check_pair(*data)
    return data[0].detach(), data[1].detach()


SAMPLE = 2048  # number of examples that estimate the curvature in a pruning step


def random_sample(data: Dataset | Pair, generator: torch.Generator | None = None) -> Pair:
    """Return `SAMPLE` random training examples, or all if there are fewer."""
    x, y = train_part(data)
    if len(x) <= SAMPLE:
        return x, y
    chosen = torch.randperm(len(x), generator=generator, device="cpu")[:SAMPLE].to(x.device)
    return x[chosen], y[chosen]
