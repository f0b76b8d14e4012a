"""Every network, prior, criterion and method of a configuration can be trained."""

import math

import pytest
import torch
from helpers import raw_tensors
from helpers.runs import small_config

import pyro_bayesprune as bp
from pyro_bayesprune.data.splitting import split
from pyro_bayesprune.experiments.build import build_model, epochs_of
from pyro_bayesprune.experiments.config import Config, configure
from pyro_bayesprune.pruning.registry import CRITERIA, METHODS, NETWORKS, PRIORS

NEED_NORMAL = {"opd", "snr"}  # criteria with the prior's curvature in them
NOT_NORMAL = {"laplace", "student_t"}
TINY = {"hidden": (6,), "channels": (2, 3), "epochs": 1, "batch_size": 20}


def test_methods_of_one_seed_share_their_initial_weights(tmp_path):
    first, second = (
        build_model(small_config(method, sparsity=0.5), (1, 8, 8), 10, 100).net.state_dict()
        for method in ("random", "bayes_magnitude")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_trains(network):
    data = split(raw_tensors(n=40, size=(16, 16)), validation=0.0)
    config = Config(network=network, **TINY)
    model = build_model(config, data.shape, data.num_classes, data.num_train)
    [(state, epoch)] = epochs_of(config, model, data, epochs=1)
    assert state.weights and math.isfinite(epoch.train_loss)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("network", ["fcn", "cnn"])
def test_every_combination_trains(network, prior, criterion):
    data = split(raw_tensors(n=40), validation=0.0)
    config = Config(
        network=network, prior=prior, criterion=criterion, gate="always", schedule="constant",
        sparsity=0.5, **TINY,
    )  # fmt: skip
    model = build_model(config, data.shape, data.num_classes, data.num_train)
    if criterion in NEED_NORMAL and prior in NOT_NORMAL:
        with pytest.raises(ValueError, match="needs independent zero-mean Normal priors"):
            next(epochs_of(config, model, data, epochs=1))
        return
    [(state, epoch)] = epochs_of(config, model, data, epochs=1)
    assert epoch.step.decision == "pruned"
    for name, mask in state.masks.items():
        assert int((~mask).sum()) == round(0.5 * mask.numel())
        assert (state.weights[name][~mask] == 0).all()
    assert all(torch.isfinite(weight).all() for weight in state.weights.values())


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains(name):
    data = split(raw_tensors(n=40), validation=0.0)
    config = configure("paper", name, **TINY)
    model = build_model(config, data.shape, data.num_classes, data.num_train)
    [(state, epoch)] = epochs_of(config, model, data, epochs=1)
    assert epoch.step.decision == ("pruned" if config.sparsity else "unchanged")
    assert bp.metrics.sparsity(state.masks) == pytest.approx(config.sparsity, abs=0.02)
