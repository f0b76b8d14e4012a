"""A network as a chain of layers."""

import pytest
from helpers.exports import Residual
from torch import nn

import pyro_bayesprune as bp
from pyro_bayesprune.export.chain import NotAChain, chain


class TestChain:
    def test_chain_names_and_skips(self):
        net = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Linear(2, 2)), nn.Identity(), nn.ReLU())
        assert [type(m) for m in chain(net).values()] == [nn.Linear, nn.ReLU]
        assert list(chain(bp.FCN((2,), 2, (3,)))) == ["flatten", "fc1", "relu_fc1", "fc2"]
        with pytest.raises(NotAChain):
            chain(Residual())
