"""A network as a Pyro model: its sites, its modes, its copies, and what it refuses."""

import copy
import math
import pickle

import pyro.distributions as dist
import pytest
import torch
from helpers import (
    class_data,
    fit_once,
    lifted,
    mlp,
    net_weights,
    noisy_net,
)
from pyro import poutine
from torch import nn

import pyro_bayesprune as bp

NORMAL = bp.priors.normal(0.3)


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


def test_a_module_with_two_names_is_not_changed_by_a_call():
    layer, x = nn.Linear(4, 4), torch.randn(5, 4)
    model = bp.BayesianModule(nn.Sequential(layer, nn.Tanh(), layer), bp.priors.normal(1.0), 5)
    w = {"0.weight": torch.randn(4, 4), "0.bias": torch.randn(4)}
    before = layer.weight
    expected = nn.functional.linear(nn.functional.linear(x, *w.values()).tanh(), *w.values())
    assert torch.equal(model.outputs(w, x), expected)
    assert layer.weight is before and list(model.priors()) == ["0.weight", "0.bias"]


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


def test_priors_take_the_modules_dtype():
    model = bp.BayesianModule(mlp().double(), bp.priors.student_t(3.0, 0.2), 10)
    assert all(p.sample().dtype == torch.float64 for p in model.priors().values())
    assert torch.get_default_dtype() == torch.float32


def test_num_data():
    with pytest.raises(ValueError, match="num_data must be a positive integer, got 0"):
        bp.BayesianModule(mlp(), NORMAL, 0)


def test_a_network_without_parameters():
    with pytest.raises(ValueError, match="ReLU has no parameters"):
        bp.BayesianModule(nn.ReLU(), NORMAL, 3)


def test_a_prior_of_a_wrong_shape():
    model = lifted(mlp(), class_data(), lambda name, shape: dist.Normal(0.0, 1.0).expand(shape))
    with pytest.raises(ValueError, match=r"prior of '0.weight' must have event shape \(8, 6\)"):
        model(class_data().train_x)


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (
            lambda n, s: dist.Normal(0.0, torch.full(s, math.nan)).to_event(len(s)),
            "parameter scale",
        ),
        (lambda n, s: dist.Normal(0.0, torch.full(s, -1.0)).to_event(len(s)), "parameter scale"),
        (bp.priors.normal(1e-300), "parameter scale"),  # zero in float32
        (lambda n, s: None, "must be a distribution, got None"),
    ],
)
def test_a_prior_that_is_no_distribution_is_named(prior, message):
    with pytest.raises(ValueError, match=f"the prior of '0.weight'.*{message}") as caught:
        fit_once(lifted(mlp(), class_data(), prior), class_data())
    assert "\n" not in str(caught.value)


def test_a_prior_is_checked_after_torch_compile_too():
    torch.distributions.Distribution.set_default_validate_args(False)  # as torch.compile does
    with pytest.raises(ValueError, match="the prior of '0.weight'.*parameter scale"):
        fit_once(lifted(mlp(), class_data(), bp.priors.normal(1e-300)), class_data())
    assert torch.distributions.Distribution._validate_args


def test_a_prior_that_is_no_function():
    with pytest.raises(ValueError, match="prior must be a function .*, got 0.3"):
        bp.BayesianModule(mlp(), 0.3, 48)


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_a_parameter_without_elements():
    with pytest.raises(ValueError, match=r"'weight' of shape \(0, 6\) has no elements"):
        bp.BayesianModule(nn.Linear(6, 0), NORMAL, 48)
