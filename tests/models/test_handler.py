"""What pruning means, wherever the handler stands."""

import copy
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import LOG_TWO_PI, class_data, lifted, mlp, net_weights, random_masks, regression
from pyro import poutine
from pyro.infer import Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoDelta

import pyro_bayesprune as bp

X = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
Y = torch.tensor([1.0, 2.0, 3.0])
W = torch.tensor([1.0, 0.5])  # not zero yet where it is pruned
MASKS = {"w": torch.tensor([True, False])}

# Residuals at w = (1, 0): 0, 2, 2; noise and prior of standard deviation one.
LOG_LIKELIHOOD = -1.5 * LOG_TWO_PI - 4

LOG_PRIOR = {"density": -LOG_TWO_PI - 0.5, "dropped": -0.5 * LOG_TWO_PI - 0.5}


def conditioned(model):
    return poutine.condition(model, data={"w": W})


def outside(model, kind):
    return bp.pruned(conditioned(model), MASKS, kind)


def inside(model, kind):
    return conditioned(bp.pruned(model, MASKS, kind))


def densities(model, *args):
    trace = poutine.trace(model).get_trace(*args)
    trace.compute_log_prob()
    return {n: trace.nodes[n]["log_prob_sum"].item() for n in ("w", "y")}


@pytest.mark.parametrize("kind", ["density", "dropped"])
@pytest.mark.parametrize("place", [inside, outside])
def test_a_trace_records_the_density_of_the_pruned_weights(place, kind):
    result = densities(place(regression(3), kind), X, Y)
    assert result["w"] == pytest.approx(LOG_PRIOR[kind], abs=1e-6)
    assert result["y"] == pytest.approx(LOG_LIKELIHOOD, abs=1e-6)


@pytest.mark.parametrize("place", [inside, outside])
def test_the_model_goes_on_with_the_pruned_weights(place):
    trace = poutine.trace(place(regression(3), "density")).get_trace(X)
    assert torch.equal(trace.nodes["y"]["fn"].mean, X @ torch.tensor([1.0, 0.0]))


def test_a_trace_inside_the_handler_records_the_pruned_value():
    traced = poutine.trace(conditioned(regression(3)))
    bp.pruned(traced, MASKS)(X, Y)
    assert torch.equal(traced.trace.nodes["w"]["value"], torch.tensor([1.0, 0.0]))


def test_sampled_weights_are_pruned():
    model = bp.pruned(regression(3), MASKS)
    trace = poutine.trace(model).get_trace(X)
    first = trace.nodes["w"]["value"][0]
    assert torch.equal(trace.nodes["y"]["fn"].mean, X[:, 0] * first)


@pytest.mark.parametrize("kind", ["density", "dropped"])
def test_trace_elbo_is_minus_the_log_joint_of_the_pruned_weights(kind):
    guide = AutoDelta(regression(3), init_loc_fn=lambda site: W.clone())
    result = Trace_ELBO().loss(bp.pruned(regression(3), MASKS, kind), guide, X, Y)
    assert result == pytest.approx(-LOG_LIKELIHOOD - LOG_PRIOR[kind], abs=1e-5)


def test_the_elbo_has_no_gradient_at_pruned_weights():
    guide = AutoDelta(regression(3), init_loc_fn=lambda site: W.clone())
    Trace_ELBO().differentiable_loss(bp.pruned(regression(3), MASKS), guide, X, Y).backward()
    gradient = pyro.param("AutoDelta.w").grad
    # d/dw1 of residuals 0, 2 (that of the third is 3 - w1) and of the prior: -2 + 1.
    assert torch.allclose(gradient, torch.tensor([-1.0, 0.0]))


@pytest.mark.parametrize(
    "predictive",
    [
        lambda model, draws: Predictive(bp.pruned(model, MASKS), draws),
        lambda model, draws: bp.pruned(Predictive(model, draws), MASKS),
    ],
    ids=["inside", "outside"],
)
def test_predictive_uses_the_pruned_weights(predictive):
    draws = predictive(regression(3, noise=1e-6), {"w": W.expand(4, 2)})(X)["y"]
    assert torch.allclose(draws, (X @ torch.tensor([1.0, 0.0])).expand(4, 3), atol=1e-4)


def test_predictive_of_a_lifted_network_equals_that_of_pruned_weights():
    data = class_data()
    model, weights = lifted(mlp(), data), net_weights(mlp())
    masks = random_masks(weights)
    zeroed = {n: w * masks[n] if n in masks else w for n, w in weights.items()}

    def logits(model, weights):
        fixed = poutine.condition(model, data=weights)
        return poutine.trace(fixed).get_trace(data.train_x).nodes["obs"]["fn"].logits

    assert torch.equal(logits(bp.pruned(model, masks), weights), logits(model, zeroed))
    assert not torch.allclose(logits(model, weights), logits(model, zeroed))


def test_masks_that_keep_everything_change_nothing():
    masks = {"w": torch.tensor([True, True])}
    free = densities(conditioned(regression(3)), X, Y)
    assert densities(conditioned(bp.pruned(regression(3), masks)), X, Y) == free


def test_the_handler_inside_a_plate_of_its_own_prior():
    """A prior written with a plate instead of to_event: the handler sees the expanded site."""

    def model(x, y=None):
        with pyro.plate("features", 2):
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 3, subsample=x):
            return pyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)

    for place in (inside, outside):
        result = densities(place(model, "dropped"), X, Y)
        assert result["w"] == pytest.approx(LOG_PRIOR["dropped"], abs=1e-6)


def test_the_users_scale_stays_on_a_pruned_site():
    def model(x, y=None):
        with poutine.scale(scale=3.0):
            w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", 3, subsample=x):
            return pyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)

    assert densities(inside(model, "density"), X, Y)["w"] == pytest.approx(
        3 * LOG_PRIOR["density"], abs=1e-5
    )


def test_a_pruned_model_can_be_copied_and_pickled():
    weights = net_weights(mlp())
    model = bp.pruned(lifted(mlp(), class_data()), random_masks(weights))
    data = {n: w.clone() for n, w in weights.items()}
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        fixed = [poutine.condition(m, data=data) for m in (model, other)]
        logits = [
            poutine.trace(m).get_trace(torch.ones(2, 6)).nodes["obs"]["fn"].logits for m in fixed
        ]
        assert torch.equal(*logits)


def test_with_sampled_the_prior_is_that_of_the_raw_value_and_the_model_uses_the_masked_one():
    """Samplers move the raw value, whose density must not be constant in pruned elements."""
    model = conditioned(bp.pruned(regression(3), MASKS, "sampled"))
    trace = poutine.trace(model).get_trace(X, Y)
    trace.compute_log_prob()
    expected = dist.Normal(0.0, 1.0).log_prob(W).sum().item()
    assert trace.nodes["w"]["log_prob_sum"].item() == pytest.approx(expected)
    assert trace.nodes["y"]["log_prob_sum"].item() == pytest.approx(LOG_LIKELIHOOD, abs=1e-6)
    with pytest.raises(ValueError, match="must be a bool tensor of shape"):
        bp.pruned(regression(3), {"w": torch.ones(3, dtype=torch.bool)}, "sampled")(X, Y)
