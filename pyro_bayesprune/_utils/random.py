"""Random streams, one for each seed, purpose and epoch."""

import hashlib
import random
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

T = TypeVar("T")
CPU = torch.device("cpu")


def random_stream(seed: int, purpose: str, epoch: int = 0) -> torch.Generator:
    """Return the generator of one purpose (data order, pruning, …) at one epoch.

    A stream depends only on these arguments. Methods with the same seed therefore share the streams
    that they use, and a continued training needs no stored random state.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}/{epoch}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def choose_examples(total: int, examples: int, seed: int, purpose: str) -> Tensor:
    """Return the sorted positions of random examples; of all examples if there are not enough."""
    generator = random_stream(seed, f"{purpose} examples")
    order = torch.randperm(total, generator=generator, device="cpu")
    return order[:examples].sort().values


@contextmanager
def forked_rng(device: torch.device = CPU, seed: int | None = None) -> Iterator[None]:
    """Restore the global generators of the CPU and of one device afterwards, and seed them first.

    No other device is touched: reading the state of a generator would initialise its device.
    """
    others = {} if device.type == "cpu" else {"device_type": device.type}
    with torch.random.fork_rng([device] if others else [], **others):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        if seed is not None and others:
            module = torch.get_device_module(device)
            with module.device(device):
                module.manual_seed(seed)
        yield


def seeded(
    seed: int, purpose: str, epoch: int = 0, device: torch.device = CPU
) -> AbstractContextManager[None]:
    """Seed the global generators (dropout, initial values), and restore them afterwards."""
    return forked_rng(device, random_stream(seed, purpose, epoch).initial_seed())


def apart(source: Iterable[T], seed: int) -> Iterator[T]:
    """Yield the items of an iterable that draws random numbers, from a seed of its own.

    The global generators of torch (CPU), NumPy and Python have this seed while an item is made. The
    caller's random numbers are as without the iterable.
    """
    iterator, own = None, None
    while True:
        outer = _states()
        try:
            if iterator is None:
                _seed_all(seed)
                iterator = iter(source)
            else:
                _restore(own)
            item = next(iterator)
        except StopIteration:
            return
        finally:
            own = _states()
            _restore(outer)
        yield item


def _states() -> Any:  # noqa: ANN401
    return torch.get_rng_state(), np.random.get_state(), random.getstate()


def _restore(states: Any) -> None:  # noqa: ANN401
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])


def _seed_all(seed: int) -> None:
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
