"""Gradients of priors in closed form are those of autograd."""

import pyro.distributions as dist
import pytest
import torch

import pyro_bayesprune as bp
from pyro_bayesprune.training.prior_gradients import energy_gradient, weight_decay

pytestmark = pytest.mark.usefixtures("double")

SHAPE = torch.Size([4, 3])
VALUE = torch.linspace(-1, 1, 12, dtype=torch.float64).view(SHAPE)


def test_closed_form_gradients_are_those_of_autograd():
    scales = torch.tensor([0.1, 1.0, 2.0])
    for distribution in (
        dist.Normal(0.0, 0.3).expand(SHAPE).to_event(2),
        dist.Normal(0.0, 0.3).expand(SHAPE),
        dist.Normal(0.7, 0.3).expand(SHAPE).to_event(2),
        dist.Normal(VALUE / 3, VALUE.abs() + 0.1).to_event(2),
        dist.Normal(torch.zeros(3), scales).expand(SHAPE).to_event(2),
        dist.Laplace(0.0, 0.1).expand(SHAPE).to_event(2),
        dist.Laplace(0.05, VALUE.abs() + 0.1).to_event(2),
        dist.StudentT(3.0, 0.0, 0.2).expand(SHAPE).to_event(2),
        dist.StudentT(VALUE.abs() + 1, VALUE / 2, VALUE.abs() + 0.1).to_event(2),
    ):
        weight = (VALUE + 0.03).requires_grad_()
        (-2.5 * distribution.log_prob(weight).sum()).backward()
        grad = torch.ones(SHAPE)
        energy_gradient(distribution)(grad, weight.detach(), 2.5)
        assert torch.allclose(grad - 1, weight.grad, rtol=0, atol=1e-12), distribution


def test_no_closed_form_where_a_parameter_is_learnt_or_the_family_is_another():
    scale = torch.tensor(0.3, requires_grad=True)
    assert energy_gradient(dist.Normal(0.0, scale).expand(SHAPE).to_event(2)) is None
    assert energy_gradient(dist.Cauchy(0.0, 1.0).expand(SHAPE).to_event(2)) is None


def test_weight_decay_is_the_precision_of_a_zero_mean_normal_and_of_nothing_else():
    shaped = dist.Normal(0.0, torch.tensor([0.1, 1.0, 2.0])).expand(SHAPE).to_event(2)
    assert weight_decay(bp.priors.normal(0.25)("w", SHAPE)) == pytest.approx(16)
    for other in (dist.Normal(0.1, 0.3).expand(SHAPE), shaped, bp.priors.laplace(0.1)("w", SHAPE)):
        assert weight_decay(other) is None
