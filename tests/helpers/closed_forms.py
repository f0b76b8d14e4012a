"""Linear models whose posterior and evidence are known, and small networks for their curvature."""

import pyro.distributions as dist
import torch
from torch import Tensor, nn

import pyro_bayesprune as bp
from helpers import NOISE

DELTA = 4.0


def correlated_regression(n=30, p=6, seed=0):
    """A linear regression as a Pyro model, its inputs, which are correlated, and its targets."""
    torch.manual_seed(seed)
    x = torch.randn(n, p) @ torch.randn(p, p)  # correlated
    y = x @ torch.randn(p, 1) + NOISE * torch.randn(n, 1)
    net = nn.Linear(p, 1, bias=False)
    prior = bp.priors.normal(DELTA**-0.5)
    return bp.BayesianModule(net, prior, n, bp.gaussian(NOISE)), x, y


def log_marginal(x: Tensor, y: Tensor, delta=DELTA, noise=NOISE) -> float:
    """ln N(y; 0, noise² I + XXᵀ/δ), the evidence of a linear model."""
    covariance = noise**2 * torch.eye(len(x)) + x @ x.T / delta
    return dist.MultivariateNormal(torch.zeros(len(x)), covariance).log_prob(y[:, 0]).item()


def posterior(x: Tensor, y: Tensor, delta=DELTA, noise=NOISE) -> tuple[Tensor, Tensor]:
    """Mean (p,) and precision (p, p) of a linear model's weights."""
    precision = x.T @ x / noise**2 + delta * torch.eye(x.shape[1])
    return torch.linalg.solve(precision, x.T @ y / noise**2)[:, 0], precision


def small_nets():
    """Networks of a few units and the shapes of their inputs."""
    return {
        "mlp": (nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), (4,)),
        "without biases": (
            nn.Sequential(nn.Linear(4, 5, bias=False), nn.Tanh(), nn.Linear(5, 3, bias=False)),
            (4,),
        ),
        "cnn": (
            nn.Sequential(
                nn.Conv2d(2, 3, 3, padding=1, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)
            ),
            (2, 4, 4),
        ),
        "positions": (
            nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(6, 3)),
            (2, 2),
        ),
        "norm": (
            nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)),
            (4,),
        ),
    }


def lifted_small_net(name, kind="classification", n=20):
    """One of the small networks as a Pyro model, its weights and random data."""
    torch.manual_seed(0)
    net, shape = small_nets()[name]
    x = torch.randn(n, *shape)
    y = torch.randint(0, 3, (n,)) if kind == "classification" else torch.randn(n, 3)
    likelihood = bp.categorical if kind == "classification" else bp.gaussian(NOISE)
    model = bp.BayesianModule(net, bp.priors.normal(0.3), n, likelihood)
    return model, {k: p.detach().clone() for k, p in net.named_parameters()}, (x, y)
