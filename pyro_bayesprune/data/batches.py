"""Data in one internal form: N examples in a fixed order, read in parts or by their positions.

`as_batches` converts what users have, once, at the public boundary.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_bayesprune._utils.random import random_stream
from pyro_bayesprune.data.dataset import Pair
from pyro_bayesprune.data.inputs import Inputs, examples, mapped

SAMPLE = 2048  # number of examples that estimate the curvature in a pruning step
FIXED = 0  # seed of the random numbers that a data set draws outside of training
Index = Tensor | slice


class Batches(ABC):
    """N examples: inputs (a tensor, a tuple or a dictionary of tensors) and targets.

    Every pass, except an `epoch` of training, gives the same examples in the same order.
    """

    has_positions = True  # whether a part of the examples can be read without the others
    index_device = torch.device("cpu")  # where positions are used

    @property
    @abstractmethod
    def num_data(self) -> int:
        """Number N of examples."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Device of the examples."""

    @abstractmethod
    def parts(self, indices: Iterable[Index], seed: int = FIXED) -> Iterator[Pair]:
        """Yield the examples at each of some indices, in the order of the index.

        Args:
            indices: positions of examples.
            seed: seed of the random numbers that a data set draws (augmentation).
        """

    def like(self, weight: Tensor) -> "Batches":
        """Return the examples on the device of a weight, with real numbers in its dtype."""
        return self

    def rows(self, index: Index) -> Pair:
        """Return the examples at some positions."""
        return next(iter(self.parts([index])))

    def chunks(self, size: int) -> Iterator[Pair]:
        """Yield all examples in their order, at most ``size`` at a time."""
        return self.parts(
            slice(start, min(start + size, self.num_data))
            for start in range(0, self.num_data, size)
        )

    def inputs(self, size: int) -> Iterator[Inputs]:
        """Yield the inputs of `chunks`."""
        return (x for x, _ in self.chunks(size))

    def first(self, number: int) -> Pair:
        """Return the first examples."""
        return self.rows(slice(number))

    def at(self, index: Index) -> "Batches":
        """Return the examples at some positions, which are read when they are used."""
        return _Part(self, torch.arange(self.num_data, device="cpu")[index])

    def transformed(self, function: Callable[[Inputs], Inputs]) -> "Batches":
        """Return the examples with a function of their inputs, computed when they are read."""
        return _Transformed(self, function)

    def whole(self) -> Pair:
        """Return all examples, in memory."""
        return self.rows(slice(self.num_data))

    def sample(self, number: int, generator: torch.Generator | None = None) -> Pair:
        """Return random examples, or all in their order if there are not more."""
        if self.num_data <= number:
            return self.whole()
        return self.rows(torch.randperm(self.num_data, generator=generator, device="cpu")[:number])

    def epoch(
        self, seed: int, epoch: int, divide: Callable[[Tensor], Sequence[Tensor]]
    ) -> Iterator[Pair]:
        """Yield the batches of an epoch of training: all examples in random order.

        Args:
            seed: seed of the fit.
            epoch: counted from 1.
            divide: function that divides an order (N,) into batches. A loader has its own.
        """
        stream = random_stream(seed, "order", epoch)
        order = torch.randperm(self.num_data, generator=stream, device="cpu")
        return self.parts(divide(order.to(self.index_device)), stream.initial_seed())


@dataclass(frozen=True)
class _Part(Batches):
    data: Batches
    positions: Tensor

    @property
    def num_data(self) -> int:
        return len(self.positions)

    @property
    def device(self) -> torch.device:
        return self.data.device

    def parts(self, indices: Iterable[Index], seed: int = FIXED) -> Iterator[Pair]:
        return self.data.parts((self.positions[index] for index in indices), seed)


@dataclass(frozen=True)
class _Transformed(Batches):
    data: Batches
    function: Callable[[Inputs], Inputs]

    @property
    def num_data(self) -> int:
        return self.data.num_data

    @property
    def device(self) -> torch.device:
        return self.data.device

    def chunks(self, size: int) -> Iterator[Pair]:
        return ((self.function(x), y) for x, y in self.data.chunks(size))

    def parts(self, indices: Iterable[Index], seed: int = FIXED) -> Iterator[Pair]:
        return ((self.function(x), y) for x, y in self.data.parts(indices, seed))


@dataclass(frozen=True)
class TensorBatches(Batches):
    """Examples in memory."""

    x: Inputs
    y: Tensor

    @property
    def num_data(self) -> int:
        """Number N of examples."""
        return len(self.y)

    @property
    def device(self) -> torch.device:
        """Device of the examples."""
        return self.y.device

    @property
    def index_device(self) -> torch.device:  # type: ignore[override]
        """Device of positions."""
        return self.device

    def like(self, weight: Tensor) -> Batches:
        """Return the examples on the device of a weight, as they are otherwise."""
        return self if weight.device == self.device else self.to(weight.device)

    def transformed(self, function: Callable[[Inputs], Inputs]) -> Batches:
        """Return the examples with a function of their inputs, computed now."""
        return TensorBatches(function(self.x), self.y)

    def to(self, device: torch.device | str) -> "TensorBatches":
        """Return the examples on a device."""
        return TensorBatches(mapped(lambda values: values.to(device), self.x), self.y.to(device))

    def parts(self, indices: Iterable[Index], seed: int = FIXED) -> Iterator[Pair]:
        """Yield the examples at each of some indices."""
        for index in indices:
            index = index.to(self.device) if isinstance(index, Tensor) else index
            yield examples(self.x, index), self.y[index]
