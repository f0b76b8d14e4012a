"""A training step does not wait for the device."""

import pytest
import torch
from accelerators import imitation
from accelerators.synchronisations import LIKELIHOODS, PRIORS, per_step

import pyro_bayesprune as bp
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


@pytest.mark.parametrize("name", PRIORS)
def test_a_step_of_pruner(name, device):
    torch.manual_seed(0)
    x, y = torch.randn(40, 8).to(device), torch.randint(3, (40,)).to(device)
    net = torch.nn.Sequential(torch.nn.Linear(8, 20), torch.nn.ReLU(), torch.nn.Linear(20, 3))
    pruning = bp.Pruning(sparsity=0.5, schedule="constant", gate="always")
    pruner = bp.Pruner(net.to(device), PRIORS[name], 40, epochs=2, pruning=pruning)
    optimizer = torch.optim.SGD([*net.parameters(), *pruner.hyperparameters()], lr=0.01)
    pruner.attach(optimizer)

    def step():
        optimizer.zero_grad()
        pruner.loss(net(x), y).backward()
        optimizer.step()

    for _ in range(2):
        step()
        with imitation.synchronisations() as places:
            step()
            limit = 2 if name == "by_site" else 0
            assert sum(places.values()) <= limit, places
        pruner.step((x, y))


def test_a_batch_of_a_loader_is_moved_without_waiting(device):
    convert = Conversion(device=torch.device(device), dtype=torch.float64)
    with imitation.synchronisations() as places:
        x, y = convert((torch.randn(10, 8), torch.randint(3, (10,))))
    assert not places and x.device.type == y.device.type == device and x.dtype == torch.float64
