"""Atomic writing of files, and checksums."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

DIGEST_BYTES = 32


def write_atomically(path: Path, content: bytes) -> None:
    """Write a temporary file and rename it, so that the file is always complete.

    Raises:
        OSError: if it cannot be written, for example to a full disk; the message names the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        partial.unlink(missing_ok=True)


def path_of(path: str | Path) -> Path:
    """Return a path, with the home folder in place of ``~``."""
    return Path(path).expanduser()


def sha256(content: bytes) -> str:
    """Return the SHA-256 of bytes as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def with_checksum(content: bytes) -> bytes:
    """Return bytes followed by their SHA-256."""
    return content + hashlib.sha256(content).digest()


def without_checksum(content: bytes) -> bytes:
    """Return the bytes from the result of `with_checksum`.

    Raises:
        ValueError: if the checksum does not match.
    """
    content, expected = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != expected:
        raise ValueError("its checksum does not match")
    return content


def digest(tensors: "Mapping[str, Tensor]", header: str = "") -> str:
    """Return the SHA-256 of a text and named tensors. It detects damage but not forgery."""
    import torch  # imported here, because configurations need only `sha256`

    checksum = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        checksum.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        checksum.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return checksum.hexdigest()
