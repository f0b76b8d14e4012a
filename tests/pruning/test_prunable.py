"""Which sites are pruned, and which cannot be."""

import pyro.distributions as dist
import pytest
import torch
from helpers import class_data, fit_once, fitted, lifted, linear_data, mlp, written
from helpers.exports import SHAPE
from torch import nn

import pyro_bayesprune as bp
from pyro_bayesprune.models.sites import inspect_model
from pyro_bayesprune.pruning.prunable import prunable_sites

X, Y, _ = linear_data(dtype=torch.float32)


def sites_of(model, x, y, patterns=None):
    return prunable_sites(model, inspect_model(model, x, y), patterns, x)


def test_a_networks_matrices_are_prunable():
    data = class_data()
    for prior in (bp.priors.normal(0.3), bp.priors.layer_scale()):
        model = lifted(mlp(), data, prior)
        assert sites_of(model, data.train_x, data.train_y) == ["0.weight", "2.weight"]
        patterns = ("*.bias", "0.weight")
        assert set(sites_of(model, data.train_x, data.train_y, patterns)) == {
            "0.weight", "0.bias", "2.bias"
        }  # fmt: skip


@pytest.mark.parametrize(
    "prior",
    [
        dist.LogNormal(torch.zeros(2), 1.0).to_event(1),
        dist.Gamma(torch.ones(2) * 2, 1.0).to_event(1),
        dist.Uniform(torch.ones(2), 2.0).to_event(1),
    ],
    ids=["LogNormal", "Gamma", "Uniform"],
)
def test_sites_that_cannot_be_zero(prior):
    with pytest.raises(ValueError, match="site 'w' cannot be pruned: .* support"):
        fit_once(written(prior), (X, Y), pruning=bp.Pruning(sites=("w",)))


def test_a_pattern_that_matches_no_site():
    with pytest.raises(ValueError, match=r"no site matches 'fc\*'; there are \['w'\]"):
        fit_once(written(), (X, Y), pruning=bp.Pruning(sites=("fc*",)))


class Recurrent(nn.Module):
    """A recurrent layer, or a cell in a loop, with a learnt initial state."""

    def __init__(self, kind):
        super().__init__()
        self.layer, self.state = kind(4, 5), nn.Parameter(torch.zeros(1, 5))
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        x, state = x[:, None].expand(-1, 3, -1).transpose(0, 1), self.state.expand(len(x), -1)
        if isinstance(self.layer, nn.GRU):
            return self.head(self.layer(x, self.state.expand(1, len(state), -1))[0][-1])
        for one in x:
            result = self.layer(one, (state, state) if self.is_lstm else state)
            state = result[0] if self.is_lstm else result
        return self.head(state)

    @property
    def is_lstm(self):
        return isinstance(self.layer, nn.LSTMCell)


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_matrices_of_recurrent_layers_and_cells_are_prunable_but_no_initial_state(kind):
    x, y = torch.randn(6, 4), torch.randint(2, (6,))
    layer = {f"layer.{name}" for name, p in kind(4, 5).named_parameters() if p.dim() == 2}
    sites = sites_of(bp.BayesianModule(Recurrent(kind), bp.priors.normal(0.3), 6), x, y)
    assert set(sites) == layer | {"head.weight"}


class TestUnitScope:
    def test_what_has_no_units_is_refused(self, digits_part):
        pruning = bp.Pruning(scope="unit", sites=("fc4.weight",))
        with pytest.raises(ValueError, match="not 'fc4.weight': that is the output layer"):
            fitted(bp.FCN(SHAPE, 10, (5, 5, 5)), digits_part, pruning=pruning)
