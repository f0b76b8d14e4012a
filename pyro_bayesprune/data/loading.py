"""Conversion of what users have to `Batches`: tensors, arrays, torch data sets, and loaders."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    TensorDataset,
    default_collate,
)
from torch.utils.data import Dataset as TorchDataset

from pyro_bayesprune.data.batches import SAMPLE, Batches, TensorBatches
from pyro_bayesprune.data.conversion import Conversion, Unpack, as_tensors
from pyro_bayesprune.data.dataset import Dataset, Pair
from pyro_bayesprune.data.inputs import mapped, num_examples, tensors
from pyro_bayesprune.data.loaders import IndexedBatches, LoaderBatches, shuffles

Data = Any  # what `as_batches` accepts
READ = 1024  # examples of an iterable data set that are read at a time


def as_batches(data: Data, unpack: Unpack | None = None, *, like: Tensor | None = None) -> Batches:
    """Return data in the form that every function of this package accepts and uses.

    Data are moved to the device of the model. The dtype of tensors in memory stays as it is. Real
    numbers in arrays, and in the batches of data sets and loaders, are cast to the model's dtype.

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
        return as_batches(TensorBatches(data.train_x, data.train_y), like=like)
    if type(data) is TensorDataset and len(data.tensors) == 2 and unpack is None:
        data = data.tensors
    convert = Conversion(unpack, *(() if like is None else (like.dtype, like.device)))
    if isinstance(data, tuple) and len(data) == 2 and unpack is None:
        return as_batches(TensorBatches(*convert.in_memory(data)), like=like)
    if isinstance(data, IterableDataset):
        data = DataLoader(data, batch_size=READ)
    if isinstance(data, TorchDataset):
        return IndexedBatches(data, default_collate, convert)
    if isinstance(data, (Tensor, Mapping, str, tuple)) or not hasattr(data, "__iter__"):
        raise ValueError(
            f"data must be a Dataset or a pair (x, y), a torch Dataset, or batches such as a "
            f"DataLoader, got {type(data).__name__}"
        )
    if isinstance(data, Iterator):
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
        x = mapped(convert.placed, as_tensors(x))
        if not num_examples(x):  # models may not accept an input without a row
            x = mapped(lambda values: values.new_zeros(1, *values.shape[1:]), x)
        return TensorBatches(x, tensors(x)[0].new_zeros(1).expand(num_examples(x)))
    batches = as_batches(x, None if isinstance(x, (Batches, Dataset)) else _any_target, like=like)
    if isinstance(batches, LoaderBatches) and shuffles(batches.loader):
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
    return x, torch.zeros(num_examples(x), device="cpu")


def random_sample(data: Data, generator: torch.Generator | None = None) -> Pair:
    """Return `SAMPLE` random training examples, or all if there are fewer, in memory."""
    return as_batches(data).sample(SAMPLE, generator)
