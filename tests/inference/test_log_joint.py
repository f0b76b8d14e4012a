"""Joint densities against formulas written down here."""

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
    noisy_net,
    normal_log_density,
    regression,
)
from pyro import poutine
from torch import nn

import pyro_bayesprune as bp
from pyro_bayesprune.inference.prediction import held_out_loss


def test_log_joint_is_the_formula(linear):
    x, y, w = linear
    result = bp.log_joint(regression(12, prior_scale=0.7, noise=0.4, dim=3), {"w": w}, (x, y))
    assert result.log_likelihood == pytest.approx(normal_log_density(y - x @ w, 0.4), abs=1e-9)
    assert result.log_prior == pytest.approx(normal_log_density(w, 0.7), abs=1e-9)
    assert result.total == result.log_likelihood + result.log_prior


@pytest.mark.parametrize("chunk_size", [1, 5, 12, 1000])
def test_the_chunk_size_changes_nothing(linear, chunk_size):
    x, y, w = linear
    model = regression(12, dim=3)
    result = bp.log_joint(model, {"w": w}, (x, y), chunk_size=chunk_size)
    whole = bp.log_joint(model, {"w": w}, (x, y))
    assert result.log_likelihood == pytest.approx(whole.log_likelihood, abs=1e-9)
    assert result.log_prior == whole.log_prior


def test_a_dataset_is_its_training_part(linear):
    x, y, w = linear
    data = bp.Dataset(x, y, x[:2] + 1, y[:2], x[:3] - 1, y[:3])
    model = regression(12, dim=3)
    assert bp.log_joint(model, {"w": w}, data) == bp.log_joint(model, {"w": w}, (x, y))


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
        result = bp.log_joint(model, {"w": w}, (x, y), chunk_size=chunk_size)
        inside = 0.5 * normal_log_density(y - x @ w, 1.0)
        assert result.log_likelihood == pytest.approx(inside, abs=1e-9)
        assert result.log_prior == pytest.approx(outside, abs=1e-9)


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

    observed = x[:, 0] > 0
    result = bp.log_joint(model, {"w": w}, (x, y), chunk_size=5)
    expected = normal_log_density((y - x @ w)[observed], 1.0)
    assert 0 < observed.sum() < 12
    assert result.log_likelihood == pytest.approx(expected, abs=1e-9)


def test_several_sites_inside_the_plate_add_up(linear):
    x, y, w = linear

    def model(x, y=None):
        w = pyro.sample("w", dist.Normal(torch.zeros(3).double(), 1.0).to_event(1))
        with pyro.plate("data", 12, subsample=x):
            pyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)
            pyro.sample("again", dist.Normal(x @ w, 2.0), obs=y)

    result = bp.log_joint(model, {"w": w}, (x, y), chunk_size=7).log_likelihood
    residuals = y - x @ w
    expected = normal_log_density(residuals, 1.0) + normal_log_density(residuals, 2.0)
    assert result == pytest.approx(expected, abs=1e-9)


def test_the_temperature_divides_the_likelihood(linear):
    x, y, w = linear
    cold = bp.log_joint(regression(12, dim=3), {"w": w}, (x, y), temperature=0.25)
    warm = bp.log_joint(regression(12, dim=3), {"w": w}, (x, y))
    assert cold.log_likelihood == pytest.approx(4 * warm.log_likelihood, rel=1e-12)
    assert cold.log_prior == warm.log_prior


def test_log_joint_of_a_lifted_network_is_cross_entropy_and_normal_densities():
    data, net = class_data(dtype=torch.float64), mlp().double()
    weights = net_weights(net)
    result = bp.log_joint(lifted(net, data), weights, data)
    expected = -nn.functional.cross_entropy(net(data.train_x), data.train_y, reduction="sum")
    assert result.log_likelihood == pytest.approx(expected.item(), abs=1e-9)
    expected = sum(normal_log_density(w, 0.3) for w in weights.values())
    assert result.log_prior == pytest.approx(expected, abs=1e-9)


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


class _Recurrent(nn.RNN):
    """Records whether cuDNN was enabled when it ran."""

    def forward(self, x):
        self.cudnn = torch.backends.cudnn.enabled
        return super().forward(x)[0]


@pytest.mark.parametrize("as_function", [False, True])
def test_recurrent_layers_are_evaluated_without_cudnn(as_function):
    """In evaluation mode cuDNN has no gradients of recurrent layers, which curvature needs."""
    net = _Recurrent(6, 3)
    model = bp.BayesianModule(net, bp.priors.normal(1.0), 10, bp.gaussian(1.0))
    data, weights = (torch.randn(10, 2, 6), torch.randn(10, 2, 3)), net_weights(net)
    bp.log_joint((lambda x, y=None: model(x, y)) if as_function else model, weights, data)
    assert not net.cudnn
    assert torch.backends.cudnn.enabled


def test_densities_and_predictions_use_no_random_numbers():
    data, net = class_data(), mlp()
    model, before = lifted(net, data), torch.get_rng_state()
    bp.log_joint(model, net_weights(net), data)
    held_out_loss(model, net_weights(net), (data.validation_x, data.validation_y))
    assert torch.equal(torch.get_rng_state(), before)


def test_sums_run_in_float64():
    """A million float32 terms: summed in float32 their sum would be off by more than this."""
    n = 1_000_000
    x, y = torch.zeros(2, 1), torch.zeros(2)

    def model(x, y=None):
        pyro.sample("w", dist.Normal(torch.zeros(()).expand(n), 0.3).to_event(1))
        with pyro.plate("data", 2, subsample=x):
            pyro.sample("y", dist.Normal(x[:, 0], 1.0), obs=y)

    result = bp.log_joint(model, {"w": torch.full((n,), 0.1)}, (x, y)).log_prior
    each = dist.Normal(torch.tensor(0.0), 0.3).log_prob(torch.tensor(0.1)).double().item()
    assert result == pytest.approx(n * each, abs=1e-6)
