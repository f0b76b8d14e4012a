"""Predictions and metrics of all likelihoods, against torchmetrics, scipy and known answers."""

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
import torchmetrics.functional as tm
from scipy import stats
from torch import nn

import pyro_bayesprune as bp
from pyro_bayesprune.inference import metrics, targets
from pyro_bayesprune.inference.prediction import class_probabilities
from pyro_bayesprune.models.likelihoods import bernoulli, categorical, poisson

N = 4000


def one(distribution, y, seed=0):
    return targets.mixture([([distribution], y)], seed)


@pytest.fixture
def tokens():
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(50, 7, 3, generator=generator)
    return logits, torch.randint(0, 3, (50, 7), generator=generator)


def test_scores_of_several_labels_are_those_of_torchmetrics(tokens):
    logits, y = tokens
    result = one(categorical(logits), y).scores()
    p, labels = logits.softmax(-1).flatten(0, 1), y.flatten()
    assert result["accuracy"] == pytest.approx(
        tm.accuracy(p, labels, task="multiclass", num_classes=3, average="micro").item()
    )
    ece = tm.calibration_error(p, labels, task="multiclass", num_classes=3, n_bins=15, norm="l1")
    assert result["ece"] == pytest.approx(ece.item(), abs=1e-6)
    assert result["nll"] == pytest.approx(
        7 * nn.functional.cross_entropy(logits.flatten(0, 1), labels).item(), rel=1e-5
    )
    squares = (p - nn.functional.one_hot(labels, 3)).square().sum(1).mean()
    assert result["brier"] == pytest.approx(squares.item(), rel=1e-5)
    assert all(0 <= result[name] <= 1 for name in ("accuracy", "ece"))


def test_a_bernoulli_target_has_two_classes():
    logits, y = torch.tensor([[2.0], [-1.0], [0.5]]), torch.tensor([[1.0], [1.0], [0.0]])
    predictions = one(bernoulli(logits), y)
    assert predictions.probabilities.shape == (3, 1, 2)
    assert predictions.scores()["accuracy"] == pytest.approx(1 / 3)
    expected = nn.functional.binary_cross_entropy_with_logits(logits, y).item()
    assert predictions.scores()["nll"] == pytest.approx(expected, rel=1e-6)


def test_the_rmse_is_that_of_torchmetrics():
    torch.manual_seed(0)
    mean, y = torch.randn(N, 2), torch.randn(N, 2)
    scores = one(bp.gaussian(1.0)(mean), y).scores()
    assert scores["rmse"] == pytest.approx(
        tm.mean_squared_error(mean, y, squared=False).item(), rel=1e-6
    )
    expected = -stats.norm(mean.numpy(), 1.0).logpdf(y.numpy()).sum(1).mean()
    assert scores["nll"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", ["normal", "student", "counts"])
def test_the_pit_of_calibrated_predictions_is_uniform(kind):
    """Kolmogorov-Smirnov at 1%, and coverages within four standard errors."""
    torch.manual_seed(2)
    location = torch.randn(N)
    fn = {
        "normal": dist.Normal(location, 0.7),
        "student": dist.StudentT(4.0, location, 0.5),
        "counts": poisson(location),
    }[kind]
    predictions = one(fn, fn.sample())
    assert stats.kstest(predictions.pit.numpy(), "uniform").pvalue > 0.01
    for q in targets.COVERAGES:
        assert abs(predictions.coverage(q) - q) < 4 * math.sqrt(q * (1 - q) / N)
    table = targets.pit_table(predictions)
    assert table["examples"].sum() == N and table["share"].sum() == pytest.approx(1)


def test_predictions_that_are_too_narrow_have_too_little_coverage():
    torch.manual_seed(2)
    predictions = one(dist.Normal(torch.zeros(N), 0.5), torch.randn(N))
    expected = 2 * stats.norm.cdf(0.5 * stats.norm.ppf(0.95)) - 1
    assert predictions.coverage(0.9) == pytest.approx(expected, abs=0.03)
    table = targets.coverage_table(predictions)
    assert (table["coverage"] < table["probability"]).all()


def test_a_mixture_averages_distribution_functions_and_densities():
    parts, y = [dist.Normal(torch.full((3,), m), 1.0) for m in (-1.0, 2.0)], torch.zeros(3)
    predictions = targets.mixture([(parts, y)])
    cdf = (stats.norm.cdf(1) + stats.norm.cdf(-2)) / 2
    np.testing.assert_allclose(predictions.pit, cdf, rtol=1e-6)
    density = (stats.norm.pdf(1) + stats.norm.pdf(-2)) / 2
    np.testing.assert_allclose(predictions.log_prob, math.log(density), rtol=1e-6)
    assert torch.equal(predictions.mean, torch.full((3,), 0.5))


def test_a_plate_that_is_not_leftmost_is_refused():
    with pytest.raises(ValueError, match="leftmost"):
        one(dist.Normal(torch.zeros(2, 5), 1.0), torch.zeros(5))


def test_an_unknown_distribution_function_has_no_coverage():
    fn = dist.MultivariateNormal(torch.zeros(4, 2), torch.eye(2))
    predictions = one(fn, torch.zeros(4, 2))
    assert math.isnan(predictions.scores()["coverage_90"])
    with pytest.raises(ValueError, match="no PIT"):
        targets.pit_table(predictions)


def test_a_fit_to_several_labels_has_an_accuracy_below_one(tokens):
    torch.manual_seed(0)
    x, y = torch.randn(60, 7, 4), torch.randint(0, 3, (60, 7))
    model = bp.BayesianModule(nn.Linear(4, 3), bp.priors.normal(1.0), 60)
    fit = bp.fit(model, bp.Dataset(x, y, x, y), epochs=1, progress=False)
    p = fit.predict_proba(x)
    assert p.shape == (60, 7, 3)
    accuracy = (p.argmax(-1) == y).double().mean().item()
    assert fit.history["validation_accuracy"].iloc[-1] == pytest.approx(accuracy)


def test_the_history_of_a_regression_has_its_rmse():
    torch.manual_seed(0)
    x, y = torch.randn(60, 4), torch.rand(60, 2)
    model = bp.BayesianModule(nn.Linear(4, 2), bp.priors.normal(1.0), 60, bp.gaussian(0.5))
    fit = bp.fit(model, bp.Dataset(x, y, x, y), epochs=1, progress=False)
    rmse = (fit.predict(x) - y).square().mean().sqrt().item()
    assert fit.history["validation_rmse"].iloc[-1] == pytest.approx(rmse, rel=1e-5)
    assert "validation_accuracy" not in fit.history and "validation rmse" in repr(fit)
    with pytest.raises(ValueError, match="categorical site"):
        class_probabilities(fit.model, fit.weights, x)


def test_the_nll_of_a_label_whose_probability_rounds_to_one_is_that_of_its_logit():
    site = dist.Bernoulli(logits=torch.tensor([[18.0], [-30.0]])).to_event(1)
    y = torch.tensor([[0.0], [0.0]])
    found = targets.mixture([([site], y)]).scores()["nll"]
    assert found == pytest.approx(-site.log_prob(y).double().mean().item()) == pytest.approx(9.0)
    assert metrics.negative_log_likelihood(targets.probabilities(site), y.long()) == (
        pytest.approx(found)
    )


def test_labels_that_a_bernoulli_cannot_have_are_refused():
    x, y = torch.randn(12, 3), torch.arange(12.0)[:, None]
    model = bp.BayesianModule(nn.Linear(3, 1), bp.priors.normal(1.0), 12, bernoulli)
    with pytest.raises(ValueError, match="must be 0. and 1. for .* up to 11"):
        bp.fit(model, (x, y), epochs=1, progress=False)
