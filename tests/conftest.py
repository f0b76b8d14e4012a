"""What all tests share: one thread, no display, checked trainings."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")

import invariants
import pyro
import pytest
import torch

import pyro_bayesprune as bp

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _invariants():
    """Every training of every test keeps the invariants."""
    with pytest.MonkeyPatch.context() as patch:
        invariants.install(patch)
        yield


@pytest.fixture(autouse=True)
def _fixed_seed():
    """Tests that draw random numbers draw the same ones, in any order of the tests."""
    torch.manual_seed(0)
    pyro.clear_param_store()


@pytest.fixture
def digits_part():
    """Digits, every fourth training example: the real thing, four times as fast."""
    data = bp.load_dataset("digits")
    return bp.Dataset(
        data.train_x[::4],
        data.train_y[::4],
        data.validation_x,
        data.validation_y,
        data.test_x,
        data.test_y,
    )
