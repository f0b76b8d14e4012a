"""Priors: their densities and their places in a model."""

import math

import pyro.distributions as dist
import pytest
import torch
from helpers import class_data, lifted, mlp, net_weights
from pyro import poutine

import pyro_bayesprune as bp

pytestmark = pytest.mark.usefixtures("double")


SHAPE = torch.Size([4, 3])
VALUE = torch.linspace(-1, 1, 12, dtype=torch.float64).view(SHAPE)
FORMULAS = {
    "normal": (bp.priors.normal(0.3), lambda w: -(w**2) / 0.18 - math.log(0.3 * math.tau**0.5)),
    "fan_in": (
        bp.priors.fan_in_normal(2.0),  # σ = 2 / √3
        lambda w: -(w**2) * 3 / 8 - math.log(2 / 3**0.5 * math.tau**0.5),
    ),
    "laplace": (bp.priors.laplace(0.1), lambda w: -w.abs() / 0.1 - math.log(0.2)),
    "cauchy": (
        bp.priors.student_t(1.0, 0.5),
        lambda w: -torch.log(math.pi * 0.5 * (1 + (w / 0.5) ** 2)),
    ),
}


@pytest.mark.parametrize(("prior", "formula"), FORMULAS.values(), ids=list(FORMULAS))
def test_log_densities_are_the_formulas(prior, formula):
    result = prior("fc1.weight", SHAPE)
    assert result.event_shape == SHAPE and result.batch_shape == ()
    assert result.log_prob(VALUE).item() == pytest.approx(formula(VALUE).sum().item(), abs=1e-9)


def test_fan_in_is_what_a_unit_sums_over():
    prior = bp.priors.fan_in_normal()
    for shape, fan_in in (((5, 16), 16), ((8, 4, 3, 3), 36), ((5,), 1)):
        result = prior("w", torch.Size(shape)).base_dist.scale
        assert torch.allclose(result, torch.full(shape, fan_in**-0.5))


def test_by_site_takes_the_first_pattern_that_matches():
    prior = bp.priors.by_site(
        {"*.bias": bp.priors.normal(1.0), "fc1.*": bp.priors.laplace(0.1), "*": bp.priors.normal(2)}
    )
    assert prior("fc1.bias", SHAPE).base_dist.scale.max() == 1
    assert isinstance(prior("fc1.weight", SHAPE).base_dist, dist.Laplace)
    assert prior("fc2.weight", SHAPE).base_dist.scale.max() == 2


def test_any_function_is_a_prior():
    data = class_data(dtype=torch.float64)

    def prior(name, shape):
        return dist.Cauchy(0.0, 1.0).expand(shape).to_event(len(shape))

    net = mlp()
    result = bp.log_joint(lifted(net, data, prior), net_weights(net), data).log_prior
    weights = torch.cat([w.flatten() for w in net_weights(net).values()])
    expected = -torch.log(math.pi * (1 + weights**2)).sum().item()
    assert result == pytest.approx(expected, abs=1e-9)


def test_layer_scale_is_a_hierarchy():
    """p(σ) p(W | σ) for matrices, a fixed Normal for biases; formulas from its docstring."""
    data, net = class_data(dtype=torch.float64), mlp()
    model = lifted(net, data, bp.priors.layer_scale(0.3, 4.0))
    scales = {"0.weight_scale": torch.tensor(0.2), "2.weight_scale": torch.tensor(0.5)}
    weights = net_weights(net) | scales
    expected = 0.0
    for name, w in net_weights(net).items():
        scale = scales.get(f"{name}_scale", torch.tensor(0.3))
        expected += dist.Normal(0.0, scale).log_prob(w).sum().item()
        if w.dim() >= 2:
            width = 1 / math.sqrt(4.0 * w.numel())
            expected += dist.LogNormal(math.log(0.3), width).log_prob(scale).item()
    result = bp.log_joint(model, weights, data).log_prior
    assert result == pytest.approx(expected, abs=1e-9)


def test_layer_scale_without_weights_has_the_mode_that_its_docstring_gives():
    n, strength = 5000, 4.0
    t = torch.linspace(-4, 1, 500_001)
    prior = bp.priors.layer_scale(0.3, strength)
    trace = poutine.trace(prior).get_trace("w", torch.Size([n, 1]))
    hyperprior = trace.nodes["w_scale"]["fn"]
    mode = t[(hyperprior.log_prob(t.exp()) - n * t).argmax()]  # n zeros have density ∝ σ^-n
    assert mode.item() == pytest.approx(math.log(0.3) - 1 / strength, abs=1e-3)
