"""Blocks of the posterior precision, against the full matrix where they are exact."""

import pytest
import torch
from torch import nn

import pyro_bayesprune as bp
from pyro_bayesprune.inference import blocks, evidence
from pyro_bayesprune.inference.curvature import flat, ggn_full, prior_precision
from pyro_bayesprune.inference.samplers import posterior_draws

pytestmark = pytest.mark.usefixtures("double")
NOISE = 0.5


def regression(n=40, features=5, outputs=4, bias=True, prior=None):
    """One linear layer under a gaussian likelihood: its Kronecker factors are exact."""
    torch.manual_seed(0)
    x = torch.randn(n, features) @ torch.randn(features, features)
    net, y = nn.Linear(features, outputs, bias=bias), torch.randn(n, outputs)
    model = bp.BayesianModule(net, prior or bp.priors.normal(0.7), n, bp.gaussian(NOISE))
    weights = {name: p.detach().clone() for name, p in net.named_parameters()}
    return model, weights, (x, y)


def exact(model, weights, data, keep, temperature=1.0):
    """Variances and log Occam factor of the kept weights, from the full matrix."""
    alive, delta = flat(model, keep).bool(), flat(model, prior_precision(model, weights))
    precision = ggn_full(model, weights, data) / temperature + delta.diag()
    precision = precision[alive][:, alive]
    log_occam = (delta[alive].log().sum() - torch.logdet(precision)) / 2
    variance = 1 / delta
    variance[alive] = torch.linalg.inv(precision).diagonal()
    return variance, log_occam.item()


def half(weights, share=0.5):
    generator = torch.Generator().manual_seed(1)
    w = weights["weight"]
    return {"weight": torch.rand(w.shape, generator=generator) > share}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("dense", [0, 4096], ids=["by rows", "whole"])
@pytest.mark.parametrize(
    "prior",
    [
        bp.priors.normal(0.7),
        bp.priors.by_site({"*bias": bp.priors.normal(2.0), "*": bp.priors.normal(0.3)}),
    ],
    ids=["one scale", "a scale of the bias"],
)  # fmt: skip
def test_a_layer_with_its_bias_is_exact_where_its_factors_are(
    monkeypatch, bias, share, dense, prior
):
    monkeypatch.setattr(blocks, "MAX_DENSE", dense)
    model, weights, data = regression(bias=bias, prior=prior)
    masks = half(weights, share) if share else {}
    keep = blocks.kept_weights(model, masks)
    variance, log_occam = exact(model, weights, data, keep, temperature=3.0)
    precision = evidence.marginal_precision(model, weights, data, masks, temperature=3.0)
    torch.testing.assert_close(1 / flat(model, precision), variance)
    zeroed = {n: w * keep[n] for n, w in weights.items()}
    result = evidence.log_evidence(model, zeroed, data, masks, "kron", temperature=3.0)
    assert result.log_occam == pytest.approx(log_occam)


def test_the_scale_is_that_of_type_two_maximum_likelihood_under_masks():
    """36 of 40 correlated weights pruned: the others must not count as if these could adjust."""
    torch.manual_seed(0)
    common = torch.randn(60, 1)
    x = 0.9**0.5 * common + 0.1**0.5 * torch.randn(60, 40)
    keep = torch.zeros(1, 40, dtype=torch.bool)
    keep[0, :4] = True
    y = x[:, :4] @ torch.tensor([[0.3], [-0.2], [0.1], [0.2]]) + NOISE * torch.randn(60, 1)
    sigma = 0.3
    for _ in range(200):
        model = bp.BayesianModule(
            nn.Linear(40, 1, bias=False), bp.priors.normal(sigma), 60, bp.gaussian(NOISE)
        )
        some = x[:, :4]
        precision = some.T @ some / NOISE**2 + torch.eye(4) / sigma**2
        mean = torch.linalg.solve(precision, some.T @ y / NOISE**2)
        weights = {"weight": torch.zeros(1, 40)}
        weights["weight"][0, :4] = mean[:, 0]
        scales = evidence.evidence_scales(model, weights, (x, y), {"weight": keep})
        sigma = scales["weight"].item()

    def log_marginal(s):
        covariance = s**2 * x[:, :4] @ x[:, :4].T + NOISE**2 * torch.eye(60)
        return torch.distributions.MultivariateNormal(torch.zeros(60), covariance).log_prob(y[:, 0])

    grid = torch.linspace(0.5, 2, 301) * sigma
    best = grid[torch.stack([log_marginal(s) for s in grid]).argmax()]
    assert sigma == pytest.approx(best.item(), rel=0.01)


def norm_net():
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))


def layer_norm_net():
    return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 3))


class Subclass(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.r, self.o = nn.GRU(2, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        return self.o(self.r(x.unflatten(1, (2, 2)))[0][:, -1])


NETWORKS = {
    "BatchNorm": norm_net,
    "LayerNorm": layer_norm_net,
    "subclass of Linear": lambda: nn.Sequential(Subclass(4, 6), nn.Tanh(), nn.Linear(6, 3)),
    "GRU": Recurrent,
    "Conv1d": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(9, 3)
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_gets_marginal_precisions_and_no_upper_bound(name):
    torch.manual_seed(0)
    net, x = NETWORKS[name](), torch.randn(30, 4)
    model = bp.BayesianModule(net, bp.priors.normal(1.0), 30)
    weights = {n: p.detach() for n, p in net.named_parameters()}
    data = (x, torch.randint(0, 3, (30,)))
    precision = flat(model, evidence.marginal_precision(model, weights, data))
    whole = ggn_full(model, weights, data) + torch.eye(len(precision))
    assert (precision >= 1 - 1e-9).all()
    assert (precision <= whole.diagonal() * 1.5).all()
    gains = evidence.occam_gains(model, weights, data)
    exact_gain = torch.logdet(whole).item() / 2
    total = sum(values.sum().item() for values in gains.values())
    assert 0.6 * exact_gain < total < 2.0 * exact_gain
    assert whole.diagonal().log().sum() / 2 > total


def test_a_large_layer_without_factors_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(blocks, "MAX_EXACT", 20)
    net = Recurrent()
    model = bp.BayesianModule(net, bp.priors.normal(1.0), 8)
    data = (torch.randn(8, 4), torch.randint(0, 3, (8,)))
    with pytest.raises(ValueError, match="r.weight_ih_l0.*has no Kronecker factors"):
        bp.fit(model, data, epochs=1, pruning=bp.Pruning(sparsity="auto"), progress=False)
    weights = {n: p.detach() for n, p in net.named_parameters()}
    assert set(evidence.occam_gains(model, weights, data, sites=["o.weight"])) == {
        "o.weight", "o.bias"
    }  # fmt: skip


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_last_layer_laplace_has_the_correlation_of_weights_and_bias(share):
    model, weights, data = regression(outputs=1)
    data = (data[0] + 2, data[1])  # inputs of a large mean: strongly correlated with the bias
    masks = half(weights, share) if share else {}
    keep = blocks.kept_weights(model, masks)

    class Point:
        temperature = 2.0

    Point.model, Point.masks, Point.buffers = model, masks, {}
    Point.weights = {n: w * keep[n] for n, w in weights.items()}
    draws = posterior_draws(Point, data, "last_layer_laplace", draws=40_000)
    alive = flat(model, keep).bool()
    delta = flat(model, prior_precision(model, weights))
    precision = (ggn_full(model, weights, data) / 2 + delta.diag())[alive][:, alive]
    covariance = torch.linalg.inv(precision)
    scale = covariance.diagonal().sqrt()
    difference = draws.values[0].T.cov() - covariance
    assert (difference / scale / scale[:, None]).abs().max() < 0.04
