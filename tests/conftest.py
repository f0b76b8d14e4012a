"""What the tests share: one thread, no display, and models small enough to work out by hand."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")

import invariants
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

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


def regression(num_data, prior_scale=1.0, noise=1.0, dim=2):
    """A linear regression written by hand: y ~ N(x·w, noise²), w ~ N(0, prior_scale²)."""

    def model(x, y=None):
        zero = x.new_zeros(dim)
        w = pyro.sample("w", dist.Normal(zero, prior_scale).to_event(1))
        with pyro.plate("data", num_data, subsample=x):
            return pyro.sample("y", dist.Normal(x @ w, noise), obs=y)

    return model


def linear_data(n=12, dim=2, dtype=torch.float64):
    """Inputs, targets and the weights they come from."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, dim, generator=generator, dtype=dtype)
    truth = torch.linspace(-1, 2, dim, dtype=dtype)
    return x, x @ truth + 0.1 * torch.randn(n, generator=generator, dtype=dtype), truth


def class_data(n=48, features=6, classes=3, dtype=torch.float32):
    """Class labels that depend on the inputs, with a validation part."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(n + 12, features, generator=generator, dtype=dtype)
    y = x[:, :classes].argmax(1)
    return bp.Dataset(x[:n], y[:n], x[n:], y[n:])


def mlp(features=6, classes=3, hidden=8):
    """A small network; equal calls after equal seeds give equal weights."""
    return nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, classes))


def noisy_net(features=6, classes=3, hidden=8):
    """A small network with BatchNorm and dropout."""
    return nn.Sequential(
        nn.Linear(features, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(hidden, classes),
    )


def lifted(net, data, prior=None, **options):
    """The network as a Pyro model of the data set's size."""
    return bp.BayesianModule(net, prior or bp.priors.normal(0.3), data.num_train, **options)


def random_masks(weights, share=0.5, seed=3):
    """A random mask for every weight matrix (of vectors too, where there are no matrices)."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(value.shape, generator=generator) >= share
        for name, value in weights.items()
        if value.dim() >= 2
    }


def net_weights(net):
    """A copy of a module's parameters by name."""
    return {name: p.detach().clone() for name, p in net.named_parameters()}


def assert_same(first, second):
    """Two dictionaries of tensors are equal bit for bit."""
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name
