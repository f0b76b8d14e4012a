"""A baked network computes what its fit predicts."""

from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from helpers import fitted
from helpers.exports import SHAPE
from torch import nn

import pyro_bayesprune as bp
from pyro_bayesprune.models import plain


def with_batch_norm():
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(1, 6, 3, padding=1),
            norm=nn.BatchNorm2d(6),
            relu=nn.ReLU(),
            pool=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc=nn.Linear(96, 10),
        )
    )


class TestBake:
    def test_outputs_are_the_fits(self, digits_part):
        fit = fitted(with_batch_norm(), digits_part, pruning=bp.Pruning(sparsity=0.5))
        net = plain.bake(fit)
        expected = fit.predict_proba(digits_part.test_x)
        torch.testing.assert_close(net(digits_part.test_x).softmax(1), expected)
        assert not net.training
        for name, mask in fit.masks.items():
            assert (net.get_parameter(name)[~mask] == 0).all()

    def test_module_of_the_fit_is_left_alone(self, digits_part):
        fit = fitted(with_batch_norm(), digits_part)
        before = {n: v.clone() for n, v in fit.model.net.state_dict().items()}
        plain.bake(fit)
        for name, value in fit.model.net.state_dict().items():
            assert torch.equal(value, before[name]), name

    def test_what_does_not_fit_is_refused(self, digits_part):
        fit = fitted(bp.FCN(SHAPE, 10, (4, 4, 4)), digits_part)
        parts = {"model": fit.model, "masks": fit.masks, "buffers": {}}
        with pytest.raises(ValueError, match="weights must have 'fc1.weight'"):
            plain.bake(SimpleNamespace(weights={}, **parts))
        with pytest.raises(ValueError, match="only a BayesianModule"):
            plain.bake(SimpleNamespace(model=lambda x, y: None, weights={}, masks={}, buffers={}))
