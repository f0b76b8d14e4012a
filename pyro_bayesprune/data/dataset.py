"""Data sets as tensors in memory."""

from dataclasses import dataclass, fields
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
                for name, value in {"x": x, "y": y}.items():
                    if value.requires_grad:  # the caller's graph is no part of a fit
                        object.__setattr__(self, f"{part}_{name}", value.detach())

    def __repr__(self) -> str:
        """Summarise: how many examples of which shape and dtype, and of what targets."""
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
        kind = type(data).__name__
        hint = ": put its batches together, torch.cat" if hasattr(data, "batch_size") else ""
        raise ValueError(f"data must be a Dataset or a pair (x, y), got {kind}{hint}")
    check_pair(*data)
    return data[0].detach(), data[1].detach()


SAMPLE = 2048  # examples from which the curvature that a pruning step uses is estimated


def random_sample(data: Dataset | Pair, generator: torch.Generator | None = None) -> Pair:
    """Return `SAMPLE` random training examples; all of them where there are no more."""
    x, y = train_part(data)
    if len(x) <= SAMPLE:
        return x, y
    chosen = torch.randperm(len(x), generator=generator, device="cpu")[:SAMPLE].to(x.device)
    return x[chosen], y[chosen]
