"""A training step does not wait for the device."""

import pytest
import torch
from accelerators import imitation
from accelerators.synchronisations import LIKELIHOODS, PRIORS, per_step

from pyro_bayesprune.data.conversion import Conversion
from pyro_bayesprune.training import loop
from pyro_bayesprune.training.trainer import Trainer


@pytest.fixture(autouse=True)
def _counted(device, monkeypatch):
    monkeypatch.setattr(loop, "Trainer", Trainer)  # the checks of `invariants` read every loss
    if device != imitation.NAME:
        pytest.skip("only the imitated device counts")


@pytest.mark.parametrize("name", PRIORS)
def test_a_step_under_a_prior(name, device):
    counts, places = per_step(device, PRIORS[name])
    # A Student t prior beside a learnt scale is made anew in each step, with one copy.
    limit = 2 if name == "by_site" else 0
    assert max(counts) <= limit, places


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_a_step_under_a_likelihood(name, device):
    counts, places = per_step(device, PRIORS["layer_scale"], LIKELIHOODS[name])
    assert max(counts) <= 1, places


def test_a_batch_of_a_loader_is_moved_without_waiting(device):
    convert = Conversion(device=torch.device(device), dtype=torch.float64)
    with imitation.synchronisations() as places:
        x, y = convert((torch.randn(10, 8), torch.randint(3, (10,))))
    assert not places and x.device.type == y.device.type == device and x.dtype == torch.float64
