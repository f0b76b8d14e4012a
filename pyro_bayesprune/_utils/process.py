"""Switches of the process that make training faster: denormal numbers and freed memory."""

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Treat denormal numbers as zero (they slow a CPU down once a network fits), then as before."""
    before = (torch.tensor([1e-40], device="cpu") * 1.0).item() == 0
    _set_flush_denormal(True)
    try:
        yield
    finally:
        _set_flush_denormal(before)


def _set_flush_denormal(flush: bool) -> None:
    """Set the switch in this thread and in its OpenMP workers.

    The switch is a register of each thread. PyTorch sets the caller's only; workers that are
    running already keep theirs, and an operation takes as long as its slowest thread.
    """
    torch.set_flush_denormal(flush)
    program: Any = ctypes.CDLL(None) if os.name == "posix" else None
    if hasattr(program, "GOMP_parallel"):  # GNU's OpenMP, PyTorch's on Linux
        task = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: torch.set_flush_denormal(flush))
        program.GOMP_parallel(task, None, torch.get_num_threads(), 0)


@contextmanager
def memory_kept() -> Iterator[None]:
    """Let freed memory stay with the process, then return it to the system.

    Otherwise glibc maps the pages of every large tensor anew, which took more than half of the time
    in which a convolutional network is evaluated. Elsewhere it changes nothing.
    """
    program: Any = ctypes.CDLL(None) if os.name == "posix" else None
    if not hasattr(program, "mallopt"):
        yield
        return
    trim, mapped = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
    program.mallopt(trim, 2**31 - 1)
    program.mallopt(mapped, 2**31 - 1)
    try:
        yield
    finally:
        program.mallopt(trim, 2**26)  # where glibc's own adjustment ends
        program.mallopt(mapped, 2**25)
        program.malloc_trim(0)


_lock = threading.RLock()


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Keep other threads of this process out while Pyro's and torch's global state is in use.

    Parameter stores, handlers, default dtypes and random states are of the process: fits in several
    threads take turns, an epoch each.
    """
    with _lock:
        yield
