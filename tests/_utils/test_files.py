"""A file is written whole or not at all."""

import os

import pytest
from helpers.runs import file_names

from pyro_bayesprune._utils.files import write_atomically


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left .*/file'"):  # the message names the file
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and file_names(tmp_path) == {"file"}
