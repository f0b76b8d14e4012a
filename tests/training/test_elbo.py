"""The point ELBO against Pyro's own, gradient by gradient."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import class_data, lifted, linear_data, mlp, net_weights, random_masks, regression
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoDelta, init_to_value
from torch import nn
from torch.func import functional_call

import pyro_bayesprune as bp
from pyro_bayesprune.training.elbo import PointELBO
from pyro_bayesprune.training.gradients import fixed_priors

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}


def cauchy(name, shape):
    """A prior of the user's own, with no gradient in closed form."""
    return dist.Cauchy(0.0, 1.0).expand(shape).to_event(len(shape))


PRIORS = {
    "normal": bp.priors.normal(0.3),
    "fan_in": bp.priors.fan_in_normal(),
    "laplace": bp.priors.laplace(0.1),
    "student_t": bp.priors.student_t(3.0, 0.2),
    "layer_scale": bp.priors.layer_scale(),
    "by_site": bp.priors.by_site({"*.bias": bp.priors.normal(1.0), "*": bp.priors.laplace(0.1)}),
    "cauchy": cauchy,
}


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request):
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(torch.float32)


def gradients(loss, model, values, batch):
    """Gradients of a loss at a point, in unconstrained space, by site, and the loss."""
    pyro.clear_param_store()
    guide = AutoDelta(
        model, init_loc_fn=init_to_value(values={n: v.clone() for n, v in values.items()})
    )
    with torch.no_grad():
        guide(*batch)
    value = loss.loss_and_grads(model, guide, *batch)
    store = pyro.get_param_store()
    return {n: store._params[f"AutoDelta.{n}"].grad for n in values}, value


def assert_close(actual, expected, dtype):
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        distance = (actual[name] - gradient).norm() / gradient.norm()
        assert gradient.norm() > 0 and distance <= TOLERANCE[dtype], (name, distance)


def point(net, prior, dtype):
    weights = net_weights(net)
    if prior is PRIORS["layer_scale"]:
        weights |= {f"{n}_scale": torch.tensor(0.2, dtype=dtype) for n in ("0.weight", "2.weight")}
    return weights


def batch_of(data, size=16):
    return data.train_x[:size], data.train_y[:size]


@pytest.mark.parametrize("prior", PRIORS.values(), ids=list(PRIORS))
def test_gradients_are_those_of_trace_elbo(prior, dtype):
    data, net = class_data(dtype=dtype), mlp()
    model, weights = lifted(net, data, prior), point(net, prior, dtype)
    expected, _ = gradients(Trace_ELBO(), model, weights, batch_of(data))
    actual, _ = gradients(PointELBO(), model, weights, batch_of(data))
    assert_close(actual, expected, dtype)


@pytest.mark.parametrize("prior", PRIORS.values(), ids=list(PRIORS))
def test_masked_gradients_are_those_of_trace_elbo_under_the_handler(prior, dtype):
    """A pruned weight's prior does not count: the handler's dropped form is what training means."""
    data, net = class_data(dtype=dtype), mlp()
    model, weights = lifted(net, data, prior), point(net, prior, dtype)
    masks = random_masks(net_weights(net))
    for name, mask in masks.items():
        weights[name] = weights[name] * mask
    handled = bp.pruned(model, masks, "dropped")
    expected, _ = gradients(Trace_ELBO(), handled, weights, batch_of(data))
    actual, _ = gradients(PointELBO(masks=masks), model, weights, batch_of(data))
    assert_close(actual, expected, dtype)
    for name, mask in masks.items():
        assert (actual[name][~mask] == 0).all() and not mask.all()


@pytest.mark.parametrize("prior", PRIORS.values(), ids=list(PRIORS))
@pytest.mark.parametrize("masked", [False, True])
def test_the_lifted_and_the_hand_written_route_agree(prior, masked, dtype):
    data, net = class_data(dtype=dtype), mlp()
    masks = random_masks(net_weights(net)) if masked else {}

    def by_hand(x, y=None):
        weights = {n: pyro.sample(n, prior(n, p.shape)) for n, p in net.named_parameters()}
        with pyro.plate("data", data.num_train, subsample=x):
            logits = functional_call(net, weights, (x,))
            return pyro.sample("obs", dist.Categorical(logits=logits), obs=y)

    weights = point(net, prior, dtype)
    options = {"scale": 1 / data.num_train, "temperature": 0.5, "masks": masks}
    first, loss = gradients(PointELBO(**options), lifted(net, data, prior), weights, batch_of(data))
    second, other = gradients(PointELBO(**options), by_hand, weights, batch_of(data))
    assert_close(first, second, dtype)
    assert loss == pytest.approx(other, rel=TOLERANCE[dtype])


def test_the_loss_is_minus_the_scaled_log_likelihood(dtype):
    data, net = class_data(dtype=dtype), mlp()
    x, y = batch_of(data)
    expected = nn.functional.cross_entropy(net(x), y).item()  # N/16 · sum / N
    options = {"scale": 1 / data.num_train, "temperature": 0.25}
    _, actual = gradients(PointELBO(**options), lifted(net, data), net_weights(net), (x, y))
    assert actual == pytest.approx(expected / 0.25, rel=1e-6)


def test_without_a_prior_the_gradient_is_that_of_cross_entropy(dtype):
    data, net = class_data(dtype=dtype), mlp()
    x, y = data.train_x, data.train_y
    nn.functional.cross_entropy(net(x), y).backward()
    expected = {n: p.grad.clone() for n, p in net.named_parameters()}
    elbo = PointELBO(scale=1 / data.num_train, prior=False)
    actual, _ = gradients(elbo, lifted(net, data), net_weights(net), (x, y))
    assert_close(actual, expected, dtype)


def test_sites_that_the_optimiser_decays_get_no_gradient_of_their_prior():
    data, net = class_data(), mlp()
    every = tuple(net_weights(net))
    actual, _ = gradients(
        PointELBO(decayed=every), lifted(net, data), net_weights(net), batch_of(data)
    )
    without, _ = gradients(
        PointELBO(prior=False), lifted(net, data), net_weights(net), batch_of(data)
    )
    for name in every:
        assert torch.equal(actual[name], without[name])


def test_a_sampled_gaussian_likelihood_and_a_users_scale(dtype):
    x, y, _ = linear_data(dtype=dtype)

    def scaled(x, y=None):
        with pyro.poutine.scale(scale=0.3):
            return regression(12)(x, y)

    weights = {"w": torch.tensor([0.5, -1.0], dtype=dtype)}
    expected, value = gradients(Trace_ELBO(), scaled, weights, (x[:5], y[:5]))
    actual, _ = gradients(PointELBO(), scaled, weights, (x[:5], y[:5]))
    assert_close(actual, expected, dtype)


def test_factors_outside_the_plate_have_gradients(dtype):
    x, y, _ = linear_data(dtype=dtype)

    def model(x, y=None):
        w = pyro.sample("w", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.factor("pull", -w.pow(4).sum())
        with pyro.plate("data", 12, subsample=x):
            return pyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)

    weights = {"w": torch.tensor([0.5, -1.0], dtype=dtype)}
    expected, _ = gradients(Trace_ELBO(), model, weights, (x, y))
    actual, _ = gradients(PointELBO(), model, weights, (x, y))
    assert_close(actual, expected, dtype)


def test_fast_route_is_taken_where_all_priors_have_closed_forms():
    data = class_data()
    for name, prior in PRIORS.items():
        fast = fixed_priors(lifted(mlp(), data, prior)) is not None
        assert fast == (name not in ("layer_scale", "cauchy")), name
    assert fixed_priors(regression(12)) is None
