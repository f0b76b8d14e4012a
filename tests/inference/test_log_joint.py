"""Joint densities and Bayes factors against formulas written down here."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import class_data, lifted, linear_data, mlp, net_weights, noisy_net, regression
from pyro import poutine
from torch import nn

import pyro_bayesprune as bp
from pyro_bayesprune.inference.prediction import class_probabilities, held_out_loss, mean_prediction

LOG_TWO_PI = math.log(2 * math.pi)


def normal_log_density(value, scale):
    """Sum of log N(value; 0, scale²), from the formula."""
    each = LOG_TWO_PI + 2 * math.log(scale)
    return -(value.square().sum() / scale**2 + value.numel() * each).item() / 2


@pytest.fixture
def linear():
    x, y, _ = linear_data(dim=3)
    return x, y, torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)


def test_log_joint_is_the_formula(linear):
    x, y, w = linear
    found = bp.log_joint(regression(12, prior_scale=0.7, noise=0.4, dim=3), {"w": w}, (x, y))
    assert found.log_likelihood == pytest.approx(normal_log_density(y - x @ w, 0.4), abs=1e-9)
    assert found.log_prior == pytest.approx(normal_log_density(w, 0.7), abs=1e-9)
    assert found.total == found.log_likelihood + found.log_prior


@pytest.mark.parametrize("chunk_size", [1, 5, 12, 1000])
def test_the_chunk_size_changes_nothing(linear, chunk_size):
    x, y, w = linear
    model = regression(12, dim=3)
    found = bp.log_joint(model, {"w": w}, (x, y), chunk_size=chunk_size)
    whole = bp.log_joint(model, {"w": w}, (x, y))
    assert found.log_likelihood == pytest.approx(whole.log_likelihood, abs=1e-9)
    assert found.log_prior == whole.log_prior


def test_a_dataset_is_its_training_part(linear):
    x, y, w = linear
    data = bp.Dataset(x, y, x[:2] + 1, y[:2], x[:3] - 1, y[:3])
    model = regression(12, dim=3)
    assert bp.log_joint(model, {"w": w}, data) == bp.log_joint(model, {"w": w}, (x, y))


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
    found = bp.BayesFactor.joint(bp.log_joint(model, w, (x, y), masks, kind), unpruned, 3)
    dropped = math.log(scale) + LOG_TWO_PI / 2 if kind == "dropped" else 0.0
    assert found.log_likelihood_ratio == pytest.approx(-1.75, abs=1e-9)
    assert found.log_prior_ratio == pytest.approx(1 / (8 * scale**2) + dropped, abs=1e-9)
    assert found.log == pytest.approx(-1.75 + 1 / (8 * scale**2) + dropped, abs=1e-9)
    assert found.kind == "joint"


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


def test_at_the_map_no_pruned_network_has_a_larger_joint_density():
    x, y, _ = linear_data(dim=4)
    ridge = torch.linalg.solve(x.T @ x + torch.eye(4), x.T @ y)
    model = regression(12, dim=4)
    before = bp.log_joint(model, {"w": ridge}, (x, y))
    for i in range(4):
        masks = {"w": torch.arange(4) != i}
        assert bp.log_joint(model, {"w": ridge}, (x, y), masks).total < before.total


def test_a_users_scales_and_factors_count_as_often_as_they_should(linear):
    """Inside the plate once an example, outside it once; a scale of the user's own stays."""
    x, y, w = linear

    def model(x, y=None):
        w = pyro.sample("w", dist.Normal(torch.zeros(3).double(), 1.0).to_event(1))
        pyro.sample("weighed", dist.Normal(w.sum(), 2.0), obs=torch.tensor(1.0).double())
        pyro.factor("bonus", torch.tensor(0.25).double())
        pyro.deterministic("total", w.sum())
        with pyro.plate("data", 12, subsample=x), poutine.scale(scale=0.5):
            pyro.deterministic("mean", x @ w, event_dim=0)
            pyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)

    outside = normal_log_density(1 - w.sum(), 2.0) + normal_log_density(w, 1.0) + 0.25
    for chunk_size in (5, 12):
        found = bp.log_joint(model, {"w": w}, (x, y), chunk_size=chunk_size)
        inside = 0.5 * normal_log_density(y - x @ w, 1.0)
        assert found.log_likelihood == pytest.approx(inside, abs=1e-9)
        assert found.log_prior == pytest.approx(outside, abs=1e-9)


def test_a_scale_outside_the_plate_stays_too(linear):
    x, y, w = linear
    whole = bp.log_joint(regression(12, dim=3), {"w": w}, (x, y))
    scaled = bp.log_joint(poutine.scale(regression(12, dim=3), 3.0), {"w": w}, (x, y), chunk_size=5)
    assert scaled.log_likelihood == pytest.approx(3 * whole.log_likelihood, abs=1e-9)
    assert scaled.log_prior == pytest.approx(3 * whole.log_prior, abs=1e-9)


def test_a_users_mask_leaves_examples_out(linear):
    x, y, w = linear

    def model(x, y=None):
        w = pyro.sample("w", dist.Normal(torch.zeros(3).double(), 1.0).to_event(1))
        with pyro.plate("data", 12, subsample=x), poutine.mask(mask=x[:, 0] > 0):
            pyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)

    seen = x[:, 0] > 0
    found = bp.log_joint(model, {"w": w}, (x, y), chunk_size=5)
    expected = normal_log_density((y - x @ w)[seen], 1.0)
    assert 0 < seen.sum() < 12
    assert found.log_likelihood == pytest.approx(expected, abs=1e-9)


def test_several_sites_inside_the_plate_add_up(linear):
    x, y, w = linear

    def model(x, y=None):
        w = pyro.sample("w", dist.Normal(torch.zeros(3).double(), 1.0).to_event(1))
        with pyro.plate("data", 12, subsample=x):
            pyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)
            pyro.sample("again", dist.Normal(x @ w, 2.0), obs=y)

    found = bp.log_joint(model, {"w": w}, (x, y), chunk_size=7).log_likelihood
    residuals = y - x @ w
    expected = normal_log_density(residuals, 1.0) + normal_log_density(residuals, 2.0)
    assert found == pytest.approx(expected, abs=1e-9)


def test_the_temperature_divides_the_likelihood(linear):
    x, y, w = linear
    cold = bp.log_joint(regression(12, dim=3), {"w": w}, (x, y), temperature=0.25)
    warm = bp.log_joint(regression(12, dim=3), {"w": w}, (x, y))
    assert cold.log_likelihood == pytest.approx(4 * warm.log_likelihood, rel=1e-12)
    assert cold.log_prior == warm.log_prior


def test_log_joint_of_a_lifted_network_is_cross_entropy_and_normal_densities():
    data, net = class_data(dtype=torch.float64), mlp().double()
    weights = net_weights(net)
    found = bp.log_joint(lifted(net, data), weights, data)
    expected = -nn.functional.cross_entropy(net(data.train_x), data.train_y, reduction="sum")
    assert found.log_likelihood == pytest.approx(expected.item(), abs=1e-9)
    expected = sum(normal_log_density(w, 0.3) for w in weights.values())
    assert found.log_prior == pytest.approx(expected, abs=1e-9)


def test_log_joint_of_pruned_weights_is_that_of_zeroed_weights():
    data, net = class_data(dtype=torch.float64), mlp().double()
    weights = net_weights(net)
    masks = {"0.weight": torch.rand(8, 6) > 0.5}
    zeroed = weights | {"0.weight": weights["0.weight"] * masks["0.weight"]}
    model = lifted(net, data)
    pruned = bp.log_joint(model, weights, data, masks)
    expected = bp.log_joint(model, zeroed, data)
    assert pruned.log_likelihood == pytest.approx(expected.log_likelihood, abs=1e-9)
    assert pruned.log_prior == pytest.approx(expected.log_prior, abs=1e-9)


def test_densities_are_those_of_evaluation_mode_and_leave_the_module_as_it_was():
    data, net = class_data(), noisy_net()
    model = lifted(net, data).train()
    net[3].eval()  # modes that differ within a module are put back one by one
    modes = [module.training for module in model.modules()]
    buffers = {n: b.clone() for n, b in model.named_buffers()}
    once = bp.log_joint(model, net_weights(net), data)
    assert bp.log_joint(model, net_weights(net), data, chunk_size=7).total == pytest.approx(
        once.total, rel=1e-5
    )
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(b, buffers[n]) for n, b in model.named_buffers())


def test_a_model_under_handlers_is_evaluated_in_evaluation_mode_too():
    """A handler hides the module: its dropout must not make densities random."""
    data, net = class_data(), noisy_net()
    model, weights = lifted(net, data).train(), net_weights(net)
    wrapped = bp.pruned(model, {"0.weight": torch.ones(8, 6, dtype=torch.bool)})
    assert bp.log_joint(wrapped, weights, data) == bp.log_joint(model, weights, data)


def test_densities_and_predictions_use_no_random_numbers():
    data, net = class_data(), mlp()
    model, before = lifted(net, data), torch.get_rng_state()
    bp.log_joint(model, net_weights(net), data)
    held_out_loss(model, net_weights(net), data.validation_x, data.validation_y)
    assert torch.equal(torch.get_rng_state(), before)


def test_sums_run_in_float64():
    """A million float32 terms: summed in float32 their sum would be off by more than this."""
    n = 1_000_000
    x, y = torch.zeros(2, 1), torch.zeros(2)

    def model(x, y=None):
        pyro.sample("w", dist.Normal(torch.zeros(()).expand(n), 0.3).to_event(1))
        with pyro.plate("data", 2, subsample=x):
            pyro.sample("y", dist.Normal(x[:, 0], 1.0), obs=y)

    found = bp.log_joint(model, {"w": torch.full((n,), 0.1)}, (x, y)).log_prior
    each = dist.Normal(torch.tensor(0.0), 0.3).log_prob(torch.tensor(0.1)).double().item()
    assert found == pytest.approx(n * each, abs=1e-6)


def test_the_held_out_loss_is_the_mean_cross_entropy_and_the_accuracy():
    data, net = class_data(), mlp()
    x, y = data.validation_x, data.validation_y
    loss, accuracy = held_out_loss(lifted(net, data), net_weights(net), x, y)
    assert loss == pytest.approx(nn.functional.cross_entropy(net(x), y).item(), rel=1e-5)
    assert accuracy == (net(x).argmax(1) == y).double().mean().item()


def test_predictions_may_be_more_than_the_training_examples(linear):
    x, _, w = linear
    many = x.repeat(300, 1)
    assert torch.equal(mean_prediction(regression(12, dim=3), {"w": w}, many), many @ w)


def test_the_held_out_loss_of_a_regression_is_a_density(linear):
    x, y, w = linear
    loss, accuracy = held_out_loss(regression(12, dim=3, noise=0.4), {"w": w}, x, y)
    assert loss == pytest.approx(-normal_log_density(y - x @ w, 0.4) / 12, abs=1e-9)
    assert math.isnan(accuracy)


def test_classes_have_probabilities_and_no_mean():
    data, net = class_data(), mlp()
    model, weights = lifted(net, data), net_weights(net)
    found = class_probabilities(model, weights, data.train_x)
    assert torch.allclose(found, net(data.train_x).softmax(1))
    with pytest.raises(ValueError, match="predict_proba"):
        mean_prediction(model, weights, data.train_x)
    with pytest.raises(ValueError, match="categorical site, got Normal"):
        x, y, _ = linear_data()
        class_probabilities(regression(12), {"w": x[0]}, x)
