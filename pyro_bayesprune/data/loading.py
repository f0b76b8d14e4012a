"""Conversion of what users have to `Batches`: tensors, arrays, torch data sets, and loaders."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    default_collate,
)
from torch.utils.data import Dataset as TorchDataset

from pyro_bayesprune._utils.random import apart, random_stream
from pyro_bayesprune.data.batches import FIXED, SAMPLE, Batches, Index, TensorBatches
from pyro_bayesprune.data.dataset import Dataset, Pair, check_pair
from pyro_bayesprune.data.inputs import examples, joined, mapped, num_examples, split, tensors

Data = Any  # what `as_batches` accepts
Unpack = Callable[[Any], tuple[Any, Any]]
READ = 1024  # examples of an iterable data set that are read at a time
FEW = 4  # examples that are read for inspection


def as_batches(data: Data, unpack: Unpack | None = None, *, like: Tensor | None = None) -> Batches:
    """Return data in the form that every function of this package accepts and uses.

    Tensors in memory are used as they are. Arrays, and the batches of data sets and loaders, are
    moved to the device of the model, and their real numbers are cast to its dtype.

    Args:
        data: a `Dataset` (its training part), a pair ``(x, y)`` of tensors or NumPy arrays, a torch
            ``Dataset``, or batches that can be read again and again: a ``DataLoader``, a list.
            Inputs x may be a tuple or a dictionary of tensors.
        unpack: function ``batch -> (inputs, targets)`` for batches that are no pairs.
        like: a weight of the model; by default the default dtype counts for arrays.

    Raises:
        ValueError: for data of another kind, and, when they are read, for batches that are no
            pairs, have NaN or infinity, or differ from pass to pass.

    Example:
        >>> loader = DataLoader([{"a": torch.ones(2), "label": 1}] * 6, batch_size=4)
        >>> as_batches(loader, unpack=lambda batch: (batch["a"], batch["label"])).num_data
        6
    """
    if isinstance(data, Batches):
        return data if like is None else data.like(like)
    if isinstance(data, Dataset):
        return TensorBatches(data.train_x, data.train_y)
    if type(data) is TensorDataset and unpack is None:
        data = data.tensors
    convert = Conversion(unpack, *(() if like is None else (like.dtype, like.device)))
    if isinstance(data, tuple) and len(data) == 2 and unpack is None:
        return TensorBatches(*convert.in_memory(data))
    if isinstance(data, IterableDataset):
        data = DataLoader(data, batch_size=READ)
    if isinstance(data, TorchDataset):
        return IndexedBatches(data, default_collate, convert)
    if isinstance(data, (Tensor, Mapping, str)) or not hasattr(data, "__iter__"):
        raise ValueError(
            f"data must be a Dataset or a pair (x, y), a torch Dataset, or batches such as a "
            f"DataLoader, got {type(data).__name__}"
        )
    if iter(data) is data:
        raise ValueError(
            f"data are read several times, but a {type(data).__name__} can be read only once: give "
            f"a DataLoader or a list of batches"
        )
    return LoaderBatches(data, convert)


def as_inputs(x: Data, *, like: Tensor | None = None) -> Batches:
    """Return inputs without targets, or those of data with targets, for predictions in their order.

    Args:
        x: a tensor (n, ...), an array, a tuple or a dictionary of them, or data as in `as_batches`;
            the batches of a loader are inputs or pairs (inputs, targets).
        like: a weight of the model.

    Raises:
        ValueError: for a loader that shuffles.
    """
    if isinstance(x, (Tensor, np.ndarray, tuple, Mapping)):
        convert = Conversion(None, *(() if like is None else (like.dtype, like.device)))
        x = mapped(convert.placed, _as_tensors(x))
        if not num_examples(x):  # models may not accept an input without a row
            x = mapped(lambda values: values.new_zeros(1, *values.shape[1:]), x)
        return TensorBatches(x, torch.zeros(1).expand(num_examples(x)))
    batches = as_batches(x, None if isinstance(x, (Batches, Dataset)) else _any_target, like=like)
    if isinstance(batches, LoaderBatches) and isinstance(
        getattr(batches.loader, "sampler", None), RandomSampler
    ):
        raise ValueError(
            "predictions have the order of the loader, but this one shuffles: use shuffle=False"
        )
    return batches


def has_examples(x: Data) -> bool:
    """Return whether inputs in memory have a row; other data have."""
    return not isinstance(x, (Tensor, np.ndarray)) or len(x) > 0


def _any_target(batch: Any) -> tuple[Any, Any]:  # noqa: ANN401
    """Return a batch of inputs, or of inputs and targets, as a pair."""
    if isinstance(batch, (tuple, list)) and len(batch) <= 2:
        x = batch[0]
    else:
        x = batch
    return x, torch.zeros(num_examples(x))


def random_sample(data: Data, generator: torch.Generator | None = None) -> Pair:
    """Return `SAMPLE` random training examples, or all if there are fewer, in memory."""
    return as_batches(data).sample(SAMPLE, generator)


@dataclass(frozen=True)
class Conversion:
    """From a batch of the user's to inputs and targets on the model's device, in its dtype."""

    unpack: Unpack | None = None
    dtype: torch.dtype | None = None
    device: torch.device | None = None

    def __call__(self, batch: Any) -> Pair:  # noqa: ANN401
        """Return inputs and targets."""
        if self.unpack is not None:
            batch = self.unpack(batch)
        if not (isinstance(batch, (tuple, list)) and len(batch) == 2):
            raise ValueError(
                f"a batch must be a pair (inputs, targets), got {_described(batch)}: say what its "
                f"inputs and targets are, as_batches(data, unpack=lambda batch: (..., ...))"
            )
        x, y = map(_as_tensors, batch)
        check_pair(x, y)
        return mapped(self.placed, x), self.placed(y)

    def in_memory(self, pair: tuple[Any, Any]) -> Pair:
        """Return a pair of tensors as it is, without history, and arrays as such tensors."""
        x, y = (_as_tensors(part, self._from_array) for part in pair)
        check_pair(x, y)
        return mapped(Tensor.detach, x), y.detach()

    def placed(self, values: Tensor) -> Tensor:
        """Return a tensor on the device, in the dtype if it is real."""
        dtype = self.dtype if values.is_floating_point() else None
        return values.detach().to(self.device, dtype)

    def _from_array(self, array: np.ndarray) -> Tensor:
        values = torch.as_tensor(array, device="cpu")
        dtype = self.dtype or torch.get_default_dtype()
        return values.to(self.device, dtype if values.is_floating_point() else None)


def _as_tensors(
    values: Any,  # noqa: ANN401
    from_array: Callable[[np.ndarray], Tensor] = torch.from_numpy,
) -> Any:  # noqa: ANN401
    """Return tensors, a tuple or a dictionary of them; other values stay, for a check to refuse."""
    if isinstance(values, np.ndarray):
        return from_array(values)
    if isinstance(values, Mapping):
        return {name: _as_tensors(value, from_array) for name, value in values.items()}
    if isinstance(values, (tuple, list)) and all(hasattr(v, "dtype") for v in values):
        return tuple(_as_tensors(value, from_array) for value in values)
    return values


def _described(batch: Any) -> str:  # noqa: ANN401
    if isinstance(batch, Mapping):
        return f"a {type(batch).__name__} of {', '.join(map(str, batch))}"
    size = f" of {len(batch)}" if isinstance(batch, (tuple, list)) else ""
    return f"a {type(batch).__name__}{size}"


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
        """Number N of examples, which are counted unless a plain `DataLoader` has them all."""
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
        start, found = 0, []
        for x, y in self._pass():
            here = chosen[(chosen >= start) & (chosen < start + len(y))] - start
            found.append((examples(x, here.to(y.device)), y[here.to(y.device)]))
            start += len(y)
        x, y = joined([x for x, _ in found]), torch.cat([y for _, y in found])
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
