"""Random streams, one for each seed, purpose and epoch."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def random_stream(seed: int, purpose: str, epoch: int = 0) -> torch.Generator:
    """Return the generator of one purpose (data order, pruning, …) at one epoch.

    A stream depends only on these arguments. Methods with the same seed therefore share the streams
    that they use, and a continued training needs no stored random state.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}/{epoch}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@contextmanager
def seeded(seed: int, purpose: str, epoch: int = 0) -> Iterator[None]:
    """Seed torch's global generator (dropout, initial values), and restore it afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(random_stream(seed, purpose, epoch).initial_seed())
        yield
