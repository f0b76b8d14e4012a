"""Data sets as tensors in memory."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pyro_bayesprune._utils.checks import check_finite
from pyro_bayesprune._utils.files import digest
from pyro_bayesprune.data.inputs import Inputs, described, mapped, num_examples, tensors


@dataclass(frozen=True, repr=False)
class Dataset:
    """Training, validation and test examples, normalised, in memory.

    Args:
        train_x: inputs (n, ...), or a tuple or a dictionary of them.
        train_y: class labels (n,) int64, or real targets (n, ...).
        validation_x: validation inputs, or None. They may inform decisions.
        validation_y: validation targets.
        test_x: test inputs, or None. They inform no decision.
        test_y: test targets.
        name: name of the data set.

    Raises:
        ValueError: for different lengths, NaN or infinity, negative labels, inputs without targets,
            or targets of another number of dimensions than those of training.

    Example:
        >>> data = Dataset(torch.randn(6, 2), torch.tensor([0, 1, 2, 0, 1, 2]))
        >>> data.num_train, tuple(data.shape), data.num_classes
        (6, (2,), 3)
    """

    train_x: Any
    train_y: Tensor
    validation_x: Any = None
    validation_y: Tensor | None = None
    test_x: Any = None
    test_y: Tensor | None = None
    name: str = "data"

    def __post_init__(self) -> None:
        for part in ("train", "validation", "test"):
            x, y = getattr(self, f"{part}_x"), getattr(self, f"{part}_y")
            if (x is None) != (y is None):
                raise ValueError(f"{part}_x and {part}_y must be given together")
            if x is not None:
                check_pair(x, y, part)
                if y.dim() != self.train_y.dim():
                    shapes = tuple(self.train_y.shape[1:]), tuple(y.shape[1:])
                    raise ValueError(
                        f"{part} targets must have the shape of the training targets, {shapes[0]} "
                        f"for each example, got {shapes[1]}"
                    )
                for name, value in {"x": x, "y": y}.items():  # without the caller's graph
                    object.__setattr__(self, f"{part}_{name}", mapped(_without_history, value))

    def __repr__(self) -> str:
        """Return a summary: numbers of examples, shape and dtype of inputs, and targets."""
        parts = {"train": self.train_x, "validation": self.validation_x, "test": self.test_x}
        counts = [f"{num_examples(x)} {part}" for part, x in parts.items() if x is not None]
        real = self.train_y.is_floating_point()
        targets = (
            f"targets {tuple(self.train_y.shape[1:])}" if real else f"{self.num_classes} classes"
        )
        inputs = described(self.train_x).replace("torch.", "")
        return f"Dataset({self.name!r}: {', '.join(counts)}; inputs {inputs}, {targets})"

    @property
    def shape(self) -> torch.Size:
        """Shape of one input, which must be a tensor."""
        if not isinstance(self.train_x, Tensor):
            raise ValueError(f"inputs of several tensors have no one shape: {self!r}")
        return self.train_x.shape[1:]

    @property
    def num_train(self) -> int:
        """Number N of training examples."""
        return len(self.train_y)

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
        if torch.device(device) == self.train_y.device:
            return self
        moved: dict[str, Any] = {}
        for name, value in vars(self).items():
            if name != "name" and value is not None:
                moved[name] = mapped(lambda values: values.to(device), value)
        return replace(self, **moved)

    def _tensors(self) -> dict[str, Tensor]:
        result: dict[str, Tensor] = {}
        for name, value in vars(self).items():
            if isinstance(value, (tuple, Mapping)):
                keys = value if isinstance(value, Mapping) else range(len(value))
                result |= {f"{name}.{key}": value[key] for key in keys}
            elif isinstance(value, Tensor):
                result[name] = value
        return result


def _without_history(values: Tensor) -> Tensor:
    return values.detach() if values.requires_grad else values


Pair = tuple[Inputs, Tensor]


def check_pair(x: Inputs, y: Tensor, part: str = "train") -> None:
    """Raise a ValueError unless ``x`` and ``y`` are equally many finite inputs and targets."""
    inputs: list = tensors(x) if isinstance(x, (Tensor, tuple, Mapping)) else [x]
    if not all(isinstance(values, Tensor) for values in (*inputs, y)):
        raise ValueError(f"{part} data must be tensors, got {type(x).__name__}, {type(y).__name__}")
    for values in (*inputs, y):
        if values.layout != torch.strided or values.is_complex() or not values.dim():
            kind = f"{values.dtype} of shape {tuple(values.shape)}, {values.layout}"
            raise ValueError(f"{part} data must be dense and real, an example a row, got {kind}")
    for values in inputs:
        if not len(values) or len(values) != len(y):
            raise ValueError(
                f"{part}: inputs and targets must be equally many, got {len(values)}, {len(y)}"
            )
        check_finite(f"{part} inputs", values)
    check_finite(f"{part} targets", y)
    if not y.is_floating_point() and int(y.min()) < 0:
        raise ValueError(f"{part} labels must not be negative, got {int(y.min())}")
