"""Bayes factors against formulas written down here, on both scales."""

import math

import pytest
import torch
from helpers import LOG_TWO_PI, regression

import pyro_bayesprune as bp


# Two weights, worked out by hand. x = (1,0), (0,1), (1,1); y = 1, 2, 3; w = (1, 1/2); noise 1.
# Residuals 0, 3/2, 3/2 become 0, 2, 2 without the second weight: the sum of squares grows from
# 9/2 to 8, so the log likelihood falls by 7/4. Under a prior of standard deviation s the density of
# the second weight rises by 1/8s² at zero; left out, its whole term ln(s) + ln(2π)/2 + 1/8s² goes.
@pytest.mark.parametrize("scale", [0.3, 1.0])
@pytest.mark.parametrize("kind", ["density", "dropped"])
def test_bayes_factors_of_two_weights(scale, kind):
    x = torch.tensor([[1, 0], [0, 1], [1, 1]], dtype=torch.float64)
    y, w = torch.tensor([1.0, 2.0, 3.0]).double(), {"w": torch.tensor([1.0, 0.5]).double()}
    model, masks = regression(3, prior_scale=scale), {"w": torch.tensor([True, False])}
    unpruned = bp.log_joint(model, w, (x, y), {"w": torch.tensor([True, True])}, kind)
    result = bp.BayesFactor.joint(bp.log_joint(model, w, (x, y), masks, kind), unpruned, 3)
    dropped = math.log(scale) + LOG_TWO_PI / 2 if kind == "dropped" else 0.0
    assert result.log_likelihood_ratio == pytest.approx(-1.75, abs=1e-9)
    assert result.log_prior_ratio == pytest.approx(1 / (8 * scale**2) + dropped, abs=1e-9)
    assert result.log == pytest.approx(-1.75 + 1 / (8 * scale**2) + dropped, abs=1e-9)
    assert result.kind == "joint"


def test_a_dropped_zero_is_for_or_against_pruning_by_the_priors_units():
    """0.28 nats against at σ = 0.3, 0.92 for it at σ = 1."""
    x, y, masks = torch.ones(2, 1), torch.zeros(2), {"w": torch.tensor([False])}
    for scale, expected in ((0.3, -0.285), (1.0, 0.919)):
        model, w = regression(2, scale, dim=1), {"w": torch.zeros(1)}
        factor = bp.BayesFactor.joint(
            bp.log_joint(model, w, (x, y), masks, "dropped"), bp.log_joint(model, w, (x, y)), 2
        )
        assert factor.log == pytest.approx(expected, abs=1e-3)


def test_a_bayes_factor_on_both_scales():
    factor = bp.BayesFactor(-3.0, 1.0, num_data=4)
    assert factor.value() == pytest.approx(math.exp(-2), rel=1e-12)
    assert factor.value("datum") == pytest.approx(math.exp(-0.5), rel=1e-12)
    assert bp.BayesFactor(2000.0, 0.0, 4).value() == math.inf
    assert bp.BayesFactor(-2000.0, 0.0, 4).value() == 0
