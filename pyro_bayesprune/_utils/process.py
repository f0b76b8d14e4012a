"""Settings of the process that make training faster: denormal numbers and freed memory."""

import ctypes
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Treat denormal numbers, which are slow on a CPU, as zero. Restore the setting afterwards."""
    before = (torch.tensor([1e-40], device="cpu") * 1.0).item() == 0
    _set_flush_denormal(True)
    try:
        yield
    finally:
        _set_flush_denormal(before)


def _set_flush_denormal(flush: bool) -> None:
    """Set the mode in this thread and in its OpenMP workers.

    Each thread has its own mode. PyTorch sets only that of the calling thread, and an operation
    takes as long as its slowest thread.
    """
    torch.set_flush_denormal(flush)
    program: Any = ctypes.CDLL(None) if os.name == "posix" else None
    if hasattr(program, "GOMP_parallel"):  # GNU's OpenMP, which PyTorch uses on Linux
        task = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: torch.set_flush_denormal(flush))
        program.GOMP_parallel(task, None, torch.get_num_threads(), 0)


@contextmanager
def memory_kept() -> Iterator[None]:
    """Reuse freed memory in this process, then return it to the system.

    Otherwise glibc maps new pages for every large tensor. This took more than half of the time in
    which a convolutional network is evaluated. With other C libraries this function has no effect.
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
        program.mallopt(trim, 2**26)  # the largest value that glibc chooses itself
        program.mallopt(mapped, 2**25)
        program.malloc_trim(0)


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute in the dtype of the tensors: without autocast, and on CUDA without TF32.

    By default, cuDNN's convolutions round float32 to the 10 bits of TF32.
    """
    with torch.autocast("cpu", enabled=False):
        if not torch.cuda.is_initialized():
            yield
            return
        cudnn: Any = torch.backends.cudnn
        matmul: Any = torch.backends.cuda.matmul
        switches: list[tuple[Any, str, Any]]
        if hasattr(matmul, "fp32_precision"):  # torch 2.9 and later
            switches = [
                (part, "fp32_precision", "ieee") for part in (matmul, cudnn.conv, cudnn.rnn)
            ]
        else:
            switches = [(part, "allow_tf32", False) for part in (matmul, cudnn)]
        with torch.autocast("cuda", enabled=False), deterministic_cudnn(), switched(switches):
            yield


def deterministic_cudnn() -> AbstractContextManager[None]:
    """Let cuDNN choose algorithms that give the same numbers in each run."""
    cudnn = torch.backends.cudnn
    return switched([(cudnn, "deterministic", True), (cudnn, "benchmark", False)])


@contextmanager
def switched(switches: Iterable[tuple[Any, str, Any]]) -> Iterator[None]:
    """Set attributes, given as (object, name, value), and restore them afterwards."""
    with ExitStack() as stack:
        for part, name, value in switches:
            stack.callback(setattr, part, name, getattr(part, name))
            setattr(part, name, value)
        yield


_lock = threading.RLock()


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Exclude other threads of this process while Pyro's and torch's global state is in use.

    Parameter stores, handlers, default dtypes and random states are global. Fits in several threads
    therefore alternate after each epoch.
    """
    with _lock:
        yield


@contextmanager
def alone() -> Iterator[None]:
    """Enable gradients, whatever the caller's mode, and exclude other threads."""
    with one_at_a_time(), torch.inference_mode(False), torch.enable_grad():
        yield


@contextmanager
def set_threads(number: int | None) -> Iterator[None]:
    """Use this number of processor threads inside; None leaves the number unchanged.

    Raises:
        ValueError: if the number is not positive.
    """
    if number is not None and number < 1:
        raise ValueError(f"threads must be at least 1, got {number}")
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
