"""Files that are written whole or not at all, and checksums."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

DIGEST_BYTES = 32


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file beside its place and rename it into place, so that it is whole or not there.

    Raises:
        OSError: if it cannot be written (the disk is full, say); the message names the file.
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


def sha256(content: bytes) -> str:
    """Return the SHA-256 of a content, 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def with_checksum(content: bytes) -> bytes:
    """Return a content with its SHA-256 behind it."""
    return content + hashlib.sha256(content).digest()


def without_checksum(content: bytes) -> bytes:
    """Return the content that `with_checksum` was given.

    Raises:
        ValueError: if the checksum is not that of the content.
    """
    content, expected = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != expected:
        raise ValueError("its checksum does not fit")
    return content


def digest(tensors: "Mapping[str, Tensor]", header: str = "") -> str:
    """Return the SHA-256 of named tensors behind a text: it finds damage, it proves no origin."""
    found = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.numpy().data)
    return found.hexdigest()
