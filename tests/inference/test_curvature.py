"""Curvature in full, by Kronecker factors and by random signs, against matrices known otherwise."""

import pyro.distributions as dist
import pytest
import torch
from helpers import NOISE
from helpers.closed_forms import lifted_small_net
from torch import nn

import pyro_bayesprune as bp
from pyro_bayesprune.inference import curvature, evidence
from pyro_bayesprune.inference.blocks import layer_blocks

pytestmark = pytest.mark.usefixtures("double")


def test_the_full_matrix_is_the_hessian_of_a_linear_networks_negative_log_likelihood():
    torch.manual_seed(0)
    net = nn.Linear(3, 4)
    x, y = torch.randn(9, 3), torch.randint(0, 4, (9,))
    model = bp.BayesianModule(net, bp.priors.normal(1.0), 9)
    weights = {n: p.detach() for n, p in net.named_parameters()}

    def loss(weight, bias):
        return -model.likelihood(x @ weight.T + bias).log_prob(y).sum()

    blocks = torch.autograd.functional.hessian(loss, tuple(weights.values()))
    rows = [
        torch.cat([b.reshape(a, -1) for b in row], 1)
        for a, row in zip((12, 4), blocks, strict=True)
    ]
    torch.testing.assert_close(curvature.ggn_full(model, weights, (x, y)), torch.cat(rows))


class Scaled(nn.Module):
    """A linear network with a gain, which is a parameter without dimensions."""

    def __init__(self):
        super().__init__()
        self.linear, self.gain = nn.Linear(3, 1, bias=False), nn.Parameter(torch.tensor(1.5))

    def forward(self, x):
        return self.gain * self.linear(x)


def test_the_full_matrix_of_a_parameter_that_is_one_number():
    net, x = Scaled(), torch.randn(9, 3)
    model = bp.BayesianModule(net, bp.priors.normal(1.0), 9, bp.gaussian(0.5))
    weights = {n: p.detach() for n, p in net.named_parameters()}
    order = list(weights)
    columns = {"gain": x @ weights["linear.weight"].T, "linear.weight": 1.5 * x}
    jacobian = torch.cat([columns[name] for name in order], 1)
    full = curvature.ggn_full(model, weights, (x, torch.zeros(9, 1)))
    torch.testing.assert_close(full, jacobian.T @ jacobian / 0.25)


def test_a_random_half_of_the_examples_scales_to_all():
    model, weights, (x, y) = lifted_small_net("mlp")
    halves = [curvature.ggn_full(model, weights, (x[i::2], y[i::2])) for i in (0, 1)]
    torch.testing.assert_close(sum(halves) / 2, curvature.ggn_full(model, weights, (x, y)))


def test_kronecker_factors_of_one_linear_layer_are_exact_and_so_are_its_marginals():
    torch.manual_seed(0)
    net = nn.Linear(3, 4, bias=False)
    data = torch.randn(20, 3), torch.randn(20, 4)
    model = bp.BayesianModule(net, bp.priors.normal(0.3), 20, bp.gaussian(NOISE))
    weights = {"weight": net.weight.detach()}
    (block,) = layer_blocks(model, weights, data)
    full = curvature.ggn_full(model, weights, data)
    torch.testing.assert_close(torch.kron(block.outputs, block.inputs), full)
    exact = 1 / torch.linalg.inv(full + torch.eye(12) / 0.09).diagonal()
    result = evidence.marginal_precision(model, weights, data)
    torch.testing.assert_close(result["weight"].flatten(), exact)


def test_other_likelihoods_and_models_are_refused():
    model, weights, data = lifted_small_net("mlp")
    model.likelihood = lambda outputs: dist.Categorical(logits=2 * outputs)
    with pytest.raises(ValueError, match="likelihood"):
        curvature.ggn_diagonal(model, weights, data)
    with pytest.raises(ValueError, match="BayesianModule"):
        curvature.ggn_diagonal(lambda x, y: None, weights, data)


def test_a_sampled_layer_scale_is_read_where_it_is():
    model, weights, _ = lifted_small_net("mlp")
    model.prior = bp.priors.layer_scale(0.3)
    scales = {"0.weight_scale": torch.tensor(0.5), "2.weight_scale": torch.tensor(0.1)}
    result = curvature.prior_precision(model, {**weights, **scales})
    assert result["0.weight"].unique().item() == pytest.approx(4)
    assert result["2.weight"].unique().item() == pytest.approx(100)
    assert result["0.bias"].unique().item() == pytest.approx(1 / 0.09)
