"""Modules whose densities would be wrong are one clear error."""

import pytest
import torch.nn.functional as F
from helpers import class_data, fit_once, lifted, net_weights
from torch import nn

import pyro_bayesprune as bp


class AlwaysDropout(nn.Module):
    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(features, 16), nn.Linear(16, classes)

    def forward(self, x):
        return self.out(F.dropout(self.hidden(x).relu(), 0.5))  # without training=self.training


def test_networks_that_draw_random_numbers_in_evaluation_mode():
    data = class_data()
    model = lifted(AlwaysDropout(data.train_x.shape[1], data.num_classes), data)
    for use in (
        lambda: fit_once(model, data),
        lambda: bp.prune(model, net_weights(model.net), data, 0.5),
    ):
        with pytest.raises(ValueError, match="AlwaysDropout draws random numbers in evaluation"):
            use()
