"""Predictions at a point, and the loss on held-out data."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import (
    class_data,
    lifted,
    linear_data,
    mlp,
    net_weights,
    normal_log_density,
    regression,
)
from pyro import poutine
from torch import nn

import pyro_bayesprune as bp
from pyro_bayesprune.inference.prediction import (
    class_probabilities,
    held_out_loss,
    mean_prediction,
    predictions,
)


def test_the_held_out_loss_is_the_mean_cross_entropy_and_the_accuracy():
    data, net = class_data(), mlp()
    x, y = data.validation_x, data.validation_y
    loss, accuracy = held_out_loss(lifted(net, data), net_weights(net), (x, y))
    assert loss == pytest.approx(nn.functional.cross_entropy(net(x), y).item(), rel=1e-5)
    assert accuracy == (net(x).argmax(1) == y).double().mean().item()


def test_predictions_may_be_more_than_the_training_examples(linear):
    x, _, w = linear
    many = x.repeat(300, 1)
    assert torch.equal(mean_prediction(regression(12, dim=3), {"w": w}, many), many @ w)


def test_the_held_out_loss_of_a_regression_is_a_density(linear):
    x, y, w = linear
    loss, rmse = held_out_loss(regression(12, dim=3, noise=0.4), {"w": w}, (x, y))
    assert loss == pytest.approx(-normal_log_density(y - x @ w, 0.4) / 12, abs=1e-9)
    assert rmse == pytest.approx((y - x @ w).square().mean().sqrt().item())


@pytest.mark.parametrize("by_handler", [True, False])
def test_masked_targets_do_not_count(linear, by_handler):
    x, y, w = linear
    observed = torch.arange(12) % 3 > 0

    def model(x, y=None):
        weights = pyro.sample("w", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        target = dist.Normal(x @ weights, 0.4)
        with pyro.plate("data", 12, subsample=x):
            if not by_handler:
                return pyro.sample("obs", target.mask(observed[: len(x)]), obs=y)
            with poutine.mask(mask=observed[: len(x)]):
                return pyro.sample("obs", target, obs=y)

    loss, rmse = held_out_loss(model, {"w": w}, (x, y))
    assert loss == pytest.approx(-normal_log_density((y - x @ w)[observed], 0.4) / 12, abs=1e-9)
    assert math.isnan(rmse)
    assert math.isnan(predictions(model, {"w": w}, (x, y)).scores()["rmse"])


def test_classes_have_probabilities_and_no_mean():
    data, net = class_data(), mlp()
    model, weights = lifted(net, data), net_weights(net)
    result = class_probabilities(model, weights, data.train_x)
    assert torch.allclose(result, net(data.train_x).softmax(1))
    with pytest.raises(ValueError, match="predict_proba"):
        mean_prediction(model, weights, data.train_x)
    with pytest.raises(ValueError, match="categorical site, got Normal"):
        x, y, _ = linear_data()
        class_probabilities(regression(12), {"w": x[0]}, x)


def test_a_point_without_all_latent_sites_is_refused():
    net = nn.Linear(2, 1)
    likelihood = bp.gaussian(dist.LogNormal(0.0, 1.0))
    model = bp.BayesianModule(net, bp.priors.normal(1.0), 5, likelihood)
    data = torch.randn(5, 2), torch.randn(5, 1)
    with pytest.raises(ValueError, match="needs values of all latent sites, got none of"):
        held_out_loss(model, dict(net.named_parameters()), data)


@pytest.mark.parametrize("measure", [held_out_loss, predictions])
@pytest.mark.parametrize("likelihood", [bp.likelihoods.categorical, bp.likelihoods.gaussian(1.0)])
def test_targets_of_another_shape_are_not_paired_with_all_predictions(measure, likelihood):
    data, net = class_data(), mlp()
    model = bp.BayesianModule(net, bp.priors.normal(1.0), data.num_train, likelihood)
    y = data.train_y[:, None] if likelihood is bp.likelihoods.categorical else data.train_y
    with pytest.raises(ValueError, match="must have the shape of the outputs' distribution"):
        measure(model, net_weights(net), (data.train_x, y))


class Censored(dist.Exponential):
    """A distribution without a mean, as users write them for survival times."""

    @property
    def mean(self):
        raise NotImplementedError


def test_a_distribution_without_a_mean_is_named():
    model = bp.BayesianModule(
        nn.Linear(3, 1), bp.priors.normal(1.0), 4, lambda out: Censored(out.exp()).to_event(1)
    )
    with pytest.raises(ValueError, match="Censored, has no mean"):
        mean_prediction(model, net_weights(model.net), torch.randn(4, 3))
