"""A fit on another device is what it is on the CPU."""

import pytest
import torch

import pyro_bayesprune as bp

p = bp.priors
FITS = {
    "normal": {"prior": p.normal(0.3)},
}

def fitted(device, prior=p.normal(0.3), epochs=3, **pruning):
    digits = bp.load_dataset("digits")
    data = bp.Dataset(digits.train_x[:400], digits.train_y[:400])
    torch.manual_seed(0)
    model = bp.BayesianModule(bp.FCN((1, 8, 8), 10, hidden=(20, 20)), prior, 400)
    settings = {"sparsity": 0.5, "schedule": "constant", "gate": "always"} | pruning
    return bp.fit(model, data, epochs=epochs, pruning=bp.Pruning(**settings), device=device, progress=False)


@pytest.mark.parametrize("name", FITS)
def test_a_prior(name, device):
    here, there = fitted("cpu", **FITS[name]), fitted(device, **FITS[name])
    for n, w in there.weights.items():
        assert w.device.type == device
        torch.testing.assert_close(w.cpu(), here.weights[n])
