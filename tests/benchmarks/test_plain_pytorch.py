"""The plain loop has the same losses as the training of this package."""

import pytest
import torch

import pyro_bayesprune as bp
from pyro_bayesprune._utils.random import random_stream
from pyro_bayesprune.benchmarks import competitors, plain_pytorch


@pytest.mark.parametrize("network", ["fcn", "cnn"])
def test_the_plain_loop_and_ours_have_the_same_losses(network):
    setting = competitors.Setting(network, batch_size=16, hidden=(64, 64, 64))
    x, y = setting.examples(160)
    model = bp.BayesianModule(setting.build(), bp.priors.normal(0.3), len(x))
    trainer = competitors._trainer(model, x, y)
    ours, step = [], trainer.svi.step
    trainer.svi.step = lambda *batch: ours.append(step(*batch)) or ours[-1]
    trainer.run_epoch(1, 16)

    order = torch.randperm(len(x), generator=random_stream(0, "order", 1))
    decay = 1 / (len(x) * 0.3**2)
    plain = plain_pytorch.steps(setting.build(), x, y, order, 16, decay)
    torch.testing.assert_close(ours, [next(plain) for _ in ours], atol=1e-4, rtol=0)


def test_the_plain_loop_is_short_and_knows_nothing_of_us():
    with open(plain_pytorch.__file__) as file:
        source = file.read()
    assert len(source.splitlines()) <= 30 and "import pyro" not in source
