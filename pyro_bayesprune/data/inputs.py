"""Inputs of a network: a tensor, a tuple or a dictionary of tensors, an example a row of each."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

Inputs = Tensor | tuple[Tensor, ...] | Mapping[str, Tensor]


def tensors(x: Inputs) -> list[Tensor]:
    """Return the tensors of inputs in a fixed order."""
    if isinstance(x, Tensor):
        return [x]
    return list(x.values() if isinstance(x, Mapping) else x)


def mapped(function: Callable[[Tensor], Tensor], x: Inputs) -> Inputs:
    """Return inputs of the same form with a function applied to each tensor."""
    if isinstance(x, Tensor):
        return function(x)
    if isinstance(x, Mapping):
        return {name: function(value) for name, value in x.items()}
    return tuple(map(function, x))


def detached(x: Inputs) -> Inputs:
    """Return inputs without their history."""
    return mapped(Tensor.detach, x)


def num_examples(x: Inputs) -> int:
    """Return the number of examples."""
    return len(tensors(x)[0])


def examples(x: Inputs, index: Tensor | slice) -> Inputs:
    """Return the examples at an index."""
    return x[index] if isinstance(x, Tensor) else mapped(lambda value: value[index], x)


def split(x: Inputs, size: int) -> Iterator[Inputs]:
    """Yield at most ``size`` examples at a time."""
    for start in range(0, num_examples(x), size):
        yield examples(x, slice(start, start + size))


def joined(parts: Sequence[Inputs]) -> Inputs:
    """Return the examples of several inputs of one form."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat([tensors(part)[0] for part in parts])
    columns = [torch.cat(column) for column in zip(*map(tensors, parts), strict=True)]
    return dict(zip(first, columns, strict=True)) if isinstance(first, Mapping) else tuple(columns)


def described(x: Inputs) -> str:
    """Return dtypes and shapes in words, for messages."""
    texts = [f"{t.dtype} of shape (n, {', '.join(map(str, t.shape[1:]))})" for t in tensors(x)]
    if isinstance(x, Mapping):
        texts = [f"{name} {text}" for name, text in zip(x, texts, strict=True)]
    return ", ".join(texts)
