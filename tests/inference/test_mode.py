"""The gradient of the log joint, and the warning far from a mode."""

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_bayesprune as bp
from pyro_bayesprune.inference.curvature import flat, ggn_full, prior_precision
from pyro_bayesprune.inference.evidence import log_evidence
from pyro_bayesprune.inference.mode import gradient_norm, log_joint_gradient, warn_if_far
from pyro_bayesprune.inference.samplers import posterior_draws

pytestmark = pytest.mark.usefixtures("double")
NOISE, SIGMA = 0.5, 0.7


def linear():
    """A linear regression, its mode, and its posterior standard deviations P_ii^-½."""
    torch.manual_seed(0)
    x, y = torch.randn(700, 4), torch.randn(700, 2)
    model = bp.BayesianModule(nn.Linear(4, 2), bp.priors.normal(SIGMA), 700, bp.gaussian(NOISE))
    design = torch.cat([x, torch.ones(700, 1)], 1)
    precision = design.T @ design / NOISE**2 + torch.eye(5) / SIGMA**2
    mode = torch.linalg.solve(precision, design.T @ y / NOISE**2)
    weights = {"weight": mode[:-1].T.clone(), "bias": mode[-1].clone()}
    return model, weights, (x, y), precision


def test_the_gradient_vanishes_at_the_mode_and_grows_with_the_distance():
    model, weights, data, precision = linear()
    assert gradient_norm(model, weights, {}, data) < 1e-12
    moved = weights | {"bias": weights["bias"] + 0.1}
    change = torch.tensor([0.0, 0, 0, 0, 0.1])
    expected = (precision @ change).norm() * 2**0.5 / 700
    assert gradient_norm(model, moved, {}, data) == pytest.approx(expected.item())
    masks = {"weight": torch.zeros(2, 4, dtype=torch.bool)}
    only_bias = (precision @ change)[4] * 2**0.5 / 700
    assert gradient_norm(model, moved, masks, data) == pytest.approx(only_bias.item())


def hierarchical(x, y=None):
    """A hand-written model: a sampled scale, a sampled noise, a factor."""
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    w = pyro.sample("w", dist.StudentT(3.0, 0.0, scale).expand([3]).to_event(1))
    noise = pyro.sample("noise", dist.Gamma(2.0, 2.0))
    pyro.factor("extra", -(w**4).sum())
    with pyro.plate("data", 600, subsample=x):
        pyro.sample("obs", dist.Normal(x @ w, noise), obs=y)


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_the_gradient_of_a_handwritten_model_is_that_of_its_density(temperature):
    torch.manual_seed(0)
    x, y = torch.randn(600, 3), torch.randn(600)  # several chunks
    weights = {"scale": torch.tensor(0.7), "w": torch.randn(3), "noise": torch.tensor(1.3)}
    point = {n: w.clone().requires_grad_() for n, w in weights.items()}
    s, w, noise = point.values()
    log_prior = dist.HalfNormal(1.0).log_prob(s) + dist.StudentT(3.0, 0.0, s).log_prob(w).sum()
    log_prior = log_prior + dist.Gamma(2.0, 2.0).log_prob(noise) - (w**4).sum()
    log_likelihood = dist.Normal(x @ w, noise).log_prob(y).sum()
    exact = torch.autograd.grad(log_prior + log_likelihood / temperature, list(point.values()))
    result = log_joint_gradient(hierarchical, weights, (x, y), temperature=temperature)
    torch.testing.assert_close(tuple(result.values()), exact)


@pytest.mark.parametrize(("shift", "warns"), [(0.9, False), (1.1, True)])
def test_the_distance_is_in_posterior_standard_deviations(shift, warns):
    gradient, precision = torch.full((5,), shift) * 2.0, torch.full((5,), 4.0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_if_far("a test", gradient, precision)
    assert [f"by {shift:.1f} posterior" in str(w.message) for w in caught] == [True] * warns


@pytest.mark.parametrize("what", ["diagonal", "kron", "full", "laplace", "last_layer_laplace"])
@pytest.mark.parametrize("distance", [0.0, 3.0])
def test_laplace_approximations_warn_far_from_a_mode_only(what, distance):
    model, weights, data, _ = linear()
    diagonal = (
        flat(model, prior_precision(model, weights)) + ggn_full(model, weights, data).diagonal()
    )
    moved = {n: w.clone() for n, w in weights.items()}
    moved["bias"] += distance * diagonal.rsqrt()[-2:] * 5**0.5  # all of it in 2 of 10 weights
    fit = bp.Fit(model, bp.training.state.State(1, moved, {}, {}, {}, None), None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if "laplace" in what:
            posterior_draws(fit, data, what, draws=4)
        else:
            log_evidence(model, moved, data, structure=what)
    assert any("assumes a mode" in str(w.message) for w in caught) == (distance > 0)


def test_the_norm_is_recorded_for_the_last_epoch():
    data = bp.load_dataset("digits")
    model = bp.BayesianModule(bp.FCN(data.shape, 10, (16,)), bp.priors.normal(0.3), data.num_train)
    fit = bp.fit(model, data, epochs=2, progress=False)
    norms = fit.history["gradient_norm"]
    assert norms.isna().tolist() == [True, False]
    expected = gradient_norm(fit.model, fit.weights, fit.masks, data)
    assert norms.iloc[-1] == pytest.approx(expected, rel=1e-4)
