"""Savage-Dickey ratios are ratios of exact marginal likelihoods."""

import pytest
import torch
from helpers.closed_forms import DELTA, correlated_regression, log_marginal, posterior

from pyro_bayesprune.inference import savage_dickey

pytestmark = pytest.mark.usefixtures("double")


def test_savage_dickey_is_the_ratio_of_exact_marginal_likelihoods():
    _, x, y = correlated_regression()
    mean, precision = posterior(x, y)
    covariance = torch.linalg.inv(precision)
    delta = torch.full((6,), DELTA)
    single = savage_dickey.savage_dickey(mean, 1 / covariance.diagonal(), delta)
    for i in range(6):
        others = [j for j in range(6) if j != i]
        truth = log_marginal(x[:, others], y) - log_marginal(x, y)
        assert single[i].item() == pytest.approx(truth, abs=1e-8)
    for group in ([0, 3], [1, 2, 5], list(range(6))):
        others = [j for j in range(6) if j not in group]
        truth = log_marginal(x[:, others], y) - log_marginal(x, y)
        block = covariance[group][:, group]
        result = savage_dickey.savage_dickey_group(mean[group], block, delta[group])
        assert result == pytest.approx(truth, abs=1e-8)
        assert result != pytest.approx(single[group].sum().item(), abs=0.1) or len(group) == 1


def recovered(seed: int) -> float:
    """F1 of the support found by removing weights one by one, refitting after each."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(200, 100, generator=generator)
    truth = torch.zeros(100)
    truth[:10] = torch.randint(0, 2, (10,), generator=generator) * 2.0 - 1
    y = (x @ truth + torch.randn(200, generator=generator))[:, None]
    alive = list(range(100))
    while alive:
        mean, precision = posterior(x[:, alive], y, delta=0.1, noise=1.0)
        marginal = 1 / torch.linalg.inv(precision).diagonal()
        scores = savage_dickey.savage_dickey(mean, marginal, torch.tensor(0.1))
        if scores.max() <= 0:
            break
        alive.pop(int(scores.argmax()))
    hits = sum(i < 10 for i in alive)
    return 2 * hits / (len(alive) + 10)


def test_greedy_savage_dickey_recovers_a_sparse_support():
    assert torch.tensor([recovered(seed) for seed in range(20)]).median() >= 0.9
