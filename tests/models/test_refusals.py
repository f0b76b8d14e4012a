"""Modules whose densities would be wrong are one clear error."""

import pytest
import torch
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
        with pytest.raises(ValueError, match="AlwaysDropout are random in evaluation mode"):
            use()


def test_embeddings_that_change_their_weights():
    words, labels = torch.arange(20) % 5, torch.arange(20) % 3
    model = bp.BayesianModule(nn.Embedding(5, 3, max_norm=0.5), bp.priors.normal(0.3), 20)
    weights = net_weights(model.net)
    with pytest.raises(ValueError, match="Embedding with max_norm changes its weights"):
        bp.prune(model, weights, (words, labels), 0.5)
    with pytest.raises(ValueError, match="Embedding with max_norm changes its weights"):
        fit_once(model, (words, labels))


class Attention(nn.Module):
    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=batch_first)
        self.out = nn.Linear(4, 3)

    def forward(self, x):
        return self.out(self.attention(x, x, x)[0].mean(1))


def test_networks_that_mix_the_examples_of_a_batch():
    data = torch.randn(20, 5, 4), torch.arange(20) % 3
    right, wrong = (
        bp.BayesianModule(Attention(first), bp.priors.normal(0.3), 20) for first in (True, False)
    )
    assert fit_once(right, data).state.epoch == 1
    with pytest.raises(
        ValueError, match="depend on the other examples of its batch.*batch_first=True"
    ):
        fit_once(wrong, data)
