"""The device of the cases ``on_device_*.py``, which run in a process of their own."""

import os

import pytest
from accelerators import imitation

DEVICE = os.environ.get("BAYESPRUNE_TEST_DEVICE", "")

if DEVICE == imitation.NAME:
    imitation.install()


@pytest.fixture(scope="session")
def device():
    """The device's name; set the environment variable to test a real one."""
    return DEVICE
