"""Criteria: random scores and those from curvature."""

import pytest
import torch
from helpers import NOISE, all_kept
from helpers.closed_forms import correlated_regression
from torch import nn

import pyro_bayesprune as bp
from pyro_bayesprune.pruning import criteria
from pyro_bayesprune.pruning.registry import CRITERIA, resolve


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", ["fisher", "opd", "snr", "savage_dickey"])
def test_curvature_criteria_rank_an_unused_weight_last_and_a_large_one_first(name):
    """With orthonormal inputs all precisions agree: the order is the magnitude's."""
    _, x, y = correlated_regression(n=40)
    q, _ = torch.linalg.qr(x)
    model = bp.BayesianModule(
        nn.Linear(6, 1, bias=False), bp.priors.normal(0.5), 40, bp.gaussian(NOISE)
    )
    theta = torch.tensor([[0.3, -0.1, 0.7, -1.5, 0.0, 0.2]])
    masks = {"weight": torch.ones(1, 6, dtype=torch.bool)}
    scores = resolve(CRITERIA, name)(
        {"weight": theta}, masks, model=model, data=(q, y), generator=torch.Generator()
    )["weight"]
    assert scores.flatten().argsort().tolist() == theta.abs().flatten().argsort().tolist()


@pytest.mark.usefixtures("double")
def test_fisher_is_the_change_of_the_log_likelihood_of_a_linear_model_at_its_maximum():
    _, x, y = correlated_regression()
    model = bp.BayesianModule(
        nn.Linear(6, 1, bias=False), bp.priors.normal(0.5), len(x), bp.gaussian(NOISE)
    )
    theta = torch.linalg.lstsq(x, y).solution.T
    masks = {"weight": torch.ones(1, 6, dtype=torch.bool)}
    scores = criteria.fisher({"weight": theta}, masks, model=model, data=(x, y))["weight"][0]
    whole = bp.log_joint(model, {"weight": theta}, (x, y)).log_likelihood
    for i in range(6):
        without = theta.clone()
        without[0, i] = 0
        change = whole - bp.log_joint(model, {"weight": without}, (x, y)).log_likelihood
        assert scores[i].item() == pytest.approx(change, rel=1e-9)


def test_random_scores_depend_on_the_generator_alone():
    weights = {"w": torch.randn(50, 4)}
    scores = [
        bp.criteria.random(w, all_kept(w), generator=torch.Generator().manual_seed(3))["w"]
        for w in (weights, {"w": torch.zeros(50, 4)})
    ]
    assert torch.equal(*scores)
    assert 0 <= scores[0].min() and scores[0].max() < 1 and len(scores[0].unique()) == 200
