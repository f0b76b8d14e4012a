"""Random streams: each purpose has its own, a function of seed, purpose and epoch."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def random_stream(seed: int, purpose: str, epoch: int = 0) -> torch.Generator:
    """Return the generator of one purpose (data order, pruning, …) at one epoch.

    Streams depend on nothing but their arguments: methods that share a seed share the streams they
    both use, and a training that goes on needs no random state from the past.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}/{epoch}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@contextmanager
def seeded(seed: int, purpose: str, epoch: int = 0) -> Iterator[None]:
    """Seed torch's global generator (dropout, initial values), then put it back as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(random_stream(seed, purpose, epoch).initial_seed())
        yield
