"""The lift and the handler: what pruning means, wherever the handler stands."""

import copy
import math
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import class_data, lifted, mlp, net_weights, noisy_net, random_masks, regression
from pyro import poutine
from pyro.infer import Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoDelta
from torch import nn

import pyro_bayesprune as bp

X = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
Y = torch.tensor([1.0, 2.0, 3.0])
W = torch.tensor([1.0, 0.5])  # not zero yet where it is pruned
MASKS = {"w": torch.tensor([True, False])}
LOG_TWO_PI = math.log(2 * math.pi)
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
    found = densities(place(regression(3), kind), X, Y)
    assert found["w"] == pytest.approx(LOG_PRIOR[kind], abs=1e-6)
    assert found["y"] == pytest.approx(LOG_LIKELIHOOD, abs=1e-6)


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
    found = Trace_ELBO().loss(bp.pruned(regression(3), MASKS, kind), guide, X, Y)
    assert found == pytest.approx(-LOG_LIKELIHOOD - LOG_PRIOR[kind], abs=1e-5)


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
        held = poutine.condition(model, data=weights)
        return poutine.trace(held).get_trace(data.train_x).nodes["obs"]["fn"].logits

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
        found = densities(place(model, "dropped"), X, Y)
        assert found["w"] == pytest.approx(LOG_PRIOR["dropped"], abs=1e-6)


def test_the_users_scale_stays_on_a_pruned_site():
    def model(x, y=None):
        with poutine.scale(scale=3.0):
            w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", 3, subsample=x):
            return pyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)

    assert densities(inside(model, "density"), X, Y)["w"] == pytest.approx(
        3 * LOG_PRIOR["density"], abs=1e-5
    )


def test_a_lifted_network_has_a_site_for_each_parameter():
    data = class_data()
    trace = poutine.trace(lifted(mlp(), data)).get_trace(data.train_x, data.train_y)
    assert set(trace.nodes) >= {"0.weight", "0.bias", "2.weight", "2.bias", "data", "obs"}
    assert trace.nodes["obs"]["scale"] == 1
    few = poutine.trace(lifted(mlp(), data)).get_trace(data.train_x[:12], data.train_y[:12])
    assert few.nodes["obs"]["scale"] == data.num_train / 12


def test_a_lifted_network_computes_what_the_module_computes():
    data, net = class_data(), mlp()
    assert torch.equal(lifted(net, data).outputs(net_weights(net), data.train_x), net(data.train_x))


def test_tied_parameters_are_one_site_used_twice():
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    net[1].weight = net[0].weight
    model = bp.BayesianModule(net, bp.priors.normal(1.0), 5)
    w, x = torch.randn(4, 4), torch.randn(5, 4)
    assert list(model.priors()) == ["0.weight"]
    assert torch.allclose(model.outputs({"0.weight": w}, x), x @ w.T @ w.T, atol=1e-6)


def test_batchnorm_buffers_move_in_training_mode_only():
    data, net = class_data(), noisy_net()
    model = lifted(net, data)
    before = net[1].running_mean.clone()
    model.eval().outputs(net_weights(net), data.train_x)
    assert torch.equal(net[1].running_mean, before)
    model.train().outputs(net_weights(net), data.train_x)
    assert torch.allclose(net[1].running_mean, 0.1 * net[0](data.train_x).mean(0), atol=1e-6)


def test_dropout_is_active_in_training_mode_only():
    data, net = class_data(), noisy_net()
    model, weights = lifted(net, data), net_weights(net)
    model.eval()
    once = model.outputs(weights, data.train_x)
    assert torch.equal(once, model.outputs(weights, data.train_x))
    model.train()
    assert not torch.equal(
        model.outputs(weights, data.train_x), model.outputs(weights, data.train_x)
    )


PRIORS = {
    "normal": bp.priors.normal(0.3),
    "fan_in": bp.priors.fan_in_normal(),
    "laplace": bp.priors.laplace(0.1),
    "student_t": bp.priors.student_t(3.0, 0.2),
    "layer_scale": bp.priors.layer_scale(),
    "by_site": bp.priors.by_site({"*.bias": bp.priors.normal(1.0), "*": bp.priors.laplace(0.1)}),
}


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("prior", PRIORS.values(), ids=list(PRIORS))
@pytest.mark.parametrize("likelihood", [bp.categorical, bp.gaussian(0.5)])
def test_models_can_be_copied_and_pickled(prior, copied, likelihood):
    model = bp.BayesianModule(noisy_net(), prior, 10, likelihood).eval()
    other = copied(model)
    assert other.prior == prior and other.num_data == 10
    torch.manual_seed(5)
    first = poutine.trace(model).get_trace(torch.ones(2, 6))
    torch.manual_seed(5)
    second = poutine.trace(other).get_trace(torch.ones(2, 6))
    assert first.log_prob_sum() == second.log_prob_sum()
    with torch.no_grad():
        other.net[0].weight.zero_()
    assert model.net[0].weight.abs().sum() > 0


def test_a_pruned_model_can_be_copied_and_pickled():
    weights = net_weights(mlp())
    model = bp.pruned(lifted(mlp(), class_data()), random_masks(weights))
    data = {n: w.clone() for n, w in weights.items()}
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        held = [poutine.condition(m, data=data) for m in (model, other)]
        logits = [
            poutine.trace(m).get_trace(torch.ones(2, 6)).nodes["obs"]["fn"].logits for m in held
        ]
        assert torch.equal(*logits)


def test_the_gaussian_likelihood_is_an_event_for_each_example():
    for outputs, event in ((torch.zeros(5), 0), (torch.zeros(5, 2), 1), (torch.zeros(5, 2, 3), 2)):
        target = bp.gaussian(0.1)(outputs)
        assert target.batch_shape == (5,) and len(target.event_shape) == event


def test_priors_take_the_modules_dtype():
    model = bp.BayesianModule(mlp().double(), bp.priors.student_t(3.0, 0.2), 10)
    assert all(p.sample().dtype == torch.float64 for p in model.priors().values())
    assert torch.get_default_dtype() == torch.float32
