"""`Pruner`: the training of `fit` in a plain loop, and what a user's own loop may contain."""

import copy

import pyro
import pytest
import torch
from helpers import class_data, lifted, mlp, noisy_net
from helpers.loops import loop
from torch import nn

import pyro_bayesprune as bp

PRUNING = bp.Pruning(sparsity=0.8, beta=0.5)
COMPARED = ["epoch", "validation_loss", "log_joint_before", "log_joint_after", "log_bf", "tries"]
COMPARED += ["sparsity", "target", "temperature"]


def convolutional():
    """A small CNN for six features."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)
    )


NETWORKS = {"fcn": mlp, "cnn": convolutional, "batch_norm": noisy_net}
PRIORS = {
    "normal": bp.priors.normal(0.3),
    "laplace": bp.priors.laplace(0.3),
    "student_t": bp.priors.student_t(3.0, 0.3),
    "layer_scale": bp.priors.layer_scale(0.3),
}


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_loop_gives_the_masks_decisions_and_weights_of_fit(network, prior):
    torch.manual_seed(0)
    net, data = NETWORKS[network](), class_data()
    options = {"pruning": PRUNING, "epochs": 3}
    pruner = loop(net, data, lambda p: torch.optim.Adam(p, lr=0.01), prior=PRIORS[prior], **options)
    fit = bp.fit(
        lifted(copy.deepcopy(net), data, PRIORS[prior]),
        data,
        optim=pyro.optim.Adam({"lr": 0.01}),
        initial_weights=initial_scales(net, data, PRIORS[prior]),
        batch_size=10,
        progress=False,
        **options,
    )
    for name, mask in fit.masks.items():
        assert torch.equal(pruner.masks[name], mask)
    for name, weight in fit.weights.items():
        assert torch.dist(pruner.weights[name], weight) <= 1e-6 * weight.norm(), name
    assert list(pruner.history.columns) == list(fit.history.columns)
    assert pruner.history["decision"].equals(fit.history["decision"])
    assert list(pruner.history["decision"]) == ["pruned", "pruned", "unchanged"]
    numbers = fit.history[COMPARED].to_numpy(float)
    assert pruner.history[COMPARED].to_numpy(float) == pytest.approx(numbers, rel=1e-5, abs=1e-5)


def initial_scales(net, data, prior):
    """The initial values of a prior's own sites in a pruner, which are random."""
    weights = bp.Pruner(copy.deepcopy(net), prior, data.num_train, epochs=1).weights
    return {name: value for name, value in weights.items() if name.endswith("_scale")}
