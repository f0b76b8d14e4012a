"""Networks have their published sizes, and no layer without a width."""

import pytest

import pyro_bayesprune as bp
from pyro_bayesprune.experiments.build import build_model
from pyro_bayesprune.experiments.config import Config


def test_the_published_networks_have_their_published_sizes():
    from pyro_bayesprune.models.networks import LeNet5

    def weights(net):
        return sum(p.numel() for p in net.parameters() if p.dim() > 1)

    assert weights(LeNet5((1, 28, 28), 10)) == 430_500
    model = build_model(Config(network="lenet_300_100"), (1, 28, 28), 10, 100)
    assert weights(model.net) == 266_200
    with pytest.raises(ValueError, match="height>=16"):
        LeNet5((1, 8, 8), 10)


@pytest.mark.parametrize("make", [bp.FCN, bp.CNN])
def test_layers_of_no_width(make):
    for options in ({"hidden": (4, 0)}, {"hidden": (-1,)}, {"num_classes": 0}):
        with pytest.raises(ValueError, match="a layer's width must be positive, got"):
            make(**({"shape": (1, 4, 4), "num_classes": 3} | options))
    with pytest.raises(ValueError, match=r"channels must be positive, got \(2, 0\)"):
        bp.CNN((1, 4, 4), 3, (2, 0))
