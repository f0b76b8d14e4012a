"""`Batches` of torch data sets and of loaders, which are read anew in each pass."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from pyro_bayesprune._utils.random import apart, random_stream
from pyro_bayesprune.data.batches import FIXED, Batches, Index
from pyro_bayesprune.data.conversion import Conversion
from pyro_bayesprune.data.dataset import Pair
from pyro_bayesprune.data.inputs import examples, joined, split, tensors

RANDOM = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)
FEW = 4  # examples that are read for inspection


@dataclass(frozen=True)
class IndexedBatches(Batches):
    """The examples of a torch data set, which are read by their positions."""

    dataset: Any
    collate: Callable[[list[Any]], Any]
    convert: Conversion

    @property
    def device(self) -> torch.device:
        """Device of the examples."""
        return self.convert.device or torch.get_default_device()

    @property
    def num_data(self) -> int:
        """Number N of examples."""
        return len(self.dataset)

    def like(self, weight: Tensor) -> Batches:
        """Return the examples on the device and in the dtype of a weight."""
        return replace(self, convert=replace(self.convert, **_place(weight)))

    def parts(self, indices: Iterable[Index], seed: int = FIXED) -> Iterator[Pair]:
        """Yield the examples at each of some indices."""
        return map(self.convert, apart(map(self._read, indices), seed))

    def _read(self, index: Index) -> Any:  # noqa: ANN401
        if isinstance(index, slice):
            positions = list(range(*index.indices(self.num_data)))
        else:
            positions = index.tolist()
        if hasattr(self.dataset, "__getitems__"):
            return self.collate(self.dataset.__getitems__(positions))
        return self.collate([self.dataset[position] for position in positions])


@dataclass
class _Known:
    """What is known of a loader: its first examples, their number, and a mark of their values."""

    first: Pair | None = None
    number: int | None = None
    mark: int | None = None


@dataclass(frozen=True)
class LoaderBatches(Batches):
    """The batches of a loader, one in memory at a time."""

    loader: Any
    convert: Conversion
    known: _Known = field(default_factory=_Known)

    @property
    def device(self) -> torch.device:
        """Device of the examples."""
        return self.convert.device or torch.get_default_device()

    @property
    def num_data(self) -> int:
        """Number N of examples, which are counted unless a plain `DataLoader` has them all.

        Raises:
            ValueError: if the loader draws examples with replacement.
        """
        if any(getattr(sampler, "replacement", False) for sampler in _samplers(self.loader)):
            raise ValueError(
                "the loader draws examples with replacement, so that some count twice and others "
                "not at all, but densities need each of the N examples once: give a loader "
                "without such a sampler (for a training: decide_on=)"
            )
        if self.known.number is None and self._indexed is not None:
            return self._indexed.num_data
        if self.known.number is None:
            for _ in self._pass():
                pass
        assert self.known.number is not None
        return self.known.number

    @property
    def has_positions(self) -> bool:  # type: ignore[override]
        """Whether the loader has a data set with examples by position."""
        return self._indexed is not None

    @property
    def _indexed(self) -> IndexedBatches | None:
        if not _reads_all(self.loader):
            return None
        return IndexedBatches(self.loader.dataset, self.loader.collate_fn, self.convert)

    def like(self, weight: Tensor) -> Batches:
        """Return the examples on the device and in the dtype of a weight."""
        convert = replace(self.convert, **_place(weight))
        return self if convert == self.convert else LoaderBatches(self.loader, convert)

    def chunks(self, size: int) -> Iterator[Pair]:
        """Yield all examples in the loader's order, at most ``size`` at a time."""
        for x, y in self._pass():
            yield from zip(split(x, size), y.split(size), strict=True)

    def first(self, number: int) -> Pair:
        """Return the first examples, at most `FEW`."""
        if self.known.first is None:
            self.known.first = self._indexed.first(FEW) if self._indexed else next(self._pass())
        x, y = self.known.first
        return examples(x, slice(min(number, FEW))), y[: min(number, FEW)]

    def parts(self, indices: Iterable[Index], seed: int = FIXED) -> Iterator[Pair]:
        """Yield the examples at each of some indices: by position, or from a pass for each."""
        if self._indexed is not None:
            return self._indexed.parts(indices, seed)
        return map(self._gathered, indices)

    def epoch(self, seed: int, epoch: int, divide: Any) -> Iterator[Pair]:  # noqa: ANN401
        """Yield the loader's batches, in its order and with its augmentation."""
        stream = random_stream(seed, "order", epoch)
        return map(self.convert, apart(self.loader, stream.initial_seed()))

    def _gathered(self, index: Index) -> Pair:
        everything = torch.arange(self.num_data, device="cpu")
        positions = everything[index]
        chosen, order = positions.sort()
        start, selected = 0, []
        for x, y in self._pass():
            here = chosen[(chosen >= start) & (chosen < start + len(y))] - start
            selected.append((examples(x, here.to(y.device)), y[here.to(y.device)]))
            start += len(y)
        x, y = joined([x for x, _ in selected]), torch.cat([y for _, y in selected])
        back = order.argsort().to(y.device)
        return examples(x, back), y[back]

    def _pass(self) -> Iterator[Pair]:
        """Yield the batches of a pass, in an order and with random numbers that are always equal.

        Raises:
            ValueError: if the examples differ from those of the pass before.
        """
        number, mark = 0, 0
        with _fixed_order(self.loader):
            for batch in apart(self.loader, FIXED):
                x, y = self.convert(batch)
                number += len(y)
                sums = (t.sum(dtype=torch.float64).item() for t in (*tensors(x), y))
                mark = hash((mark, *sums))
                yield x, y
        if not number:
            raise ValueError("the loader has no batches")
        if (self.known.number or number, self.known.mark or mark) != (number, mark):
            raise ValueError(
                f"the loader does not give the same examples in each pass ({number} examples in "
                f"this one), but networks are compared on the same data: for decisions, give a "
                f"loader without random augmentation and without an order of its own"
            )
        self.known.number, self.known.mark = number, mark


class _fixed_order:  # noqa: N801
    """Gives a DataLoader's own generator the fixed seed, and its former state afterwards."""

    def __init__(self, loader: object) -> None:
        self.generator = getattr(loader, "generator", None)

    def __enter__(self) -> None:
        if isinstance(self.generator, torch.Generator):
            self.state = self.generator.get_state()
            self.generator.manual_seed(FIXED)

    def __exit__(self, *exc: object) -> None:
        if isinstance(self.generator, torch.Generator):
            self.generator.set_state(self.state)


def _place(weight: Tensor) -> dict[str, Any]:
    return {"dtype": weight.dtype, "device": weight.device}


def shuffles(loader: Any) -> bool:  # noqa: ANN401
    """Return whether a loader has a sampler of random order, by itself or for its batches."""
    return any(isinstance(s, RANDOM) or getattr(s, "shuffle", False) for s in _samplers(loader))


def _samplers(loader: Any) -> list[Any]:  # noqa: ANN401
    owners = loader, getattr(loader, "batch_sampler", None)
    return [getattr(owner, "sampler", None) for owner in owners]


def _reads_all(loader: Any) -> bool:  # noqa: ANN401
    """Whether a loader reads each example of a data set with positions once."""
    if not isinstance(loader, DataLoader) or type(loader).__iter__ is not DataLoader.__iter__:
        return False
    if (
        isinstance(loader.dataset, IterableDataset)
        or type(loader.batch_sampler) is not BatchSampler
    ):
        return False
    sampler = loader.sampler
    number = len(loader.dataset)  # type: ignore[arg-type]
    plain = type(sampler) is SequentialSampler or (
        type(sampler) is RandomSampler and not sampler.replacement and len(sampler) == number
    )
    complete = not loader.drop_last or (loader.batch_size and number % loader.batch_size == 0)
    return plain and loader.batch_size is not None and bool(complete)
