"""Draws by NUTS over the surviving weights, whitened by the curvature at the mode."""

from collections.abc import Mapping
from typing import Any

import torch
from pyro.infer import MCMC, NUTS
from torch import Tensor

from pyro_bayesprune._utils.random import seeded
from pyro_bayesprune.data.dataset import Dataset, Pair, train_part
from pyro_bayesprune.inference.draw_predictions import VectorFunction, network_of
from pyro_bayesprune.inference.draws import priors_at, scatter
from pyro_bayesprune.inference.laplace import Drawn
from pyro_bayesprune.models.module import BayesianModule, Weights


def log_density(
    model: BayesianModule,
    weights: Weights,
    index: Mapping[str, Tensor],
    data: Dataset | Pair,
    temperature: float = 1.0,
) -> VectorFunction:
    """Return log p(D|w) / T + log p(w) (nats, up to a constant) as a function of the vector (d,).

    Pruned weights have the prior's density at zero, a constant.
    """
    x, y = train_part(data)
    forward, priors = network_of(model, weights, index, x), priors_at(model, weights, index)

    def density(vector: Tensor) -> Tensor:
        sites = scatter(vector, weights, index)
        prior = sum(fn.log_prob(sites[n].to(weights[n].dtype)).double() for n, fn in priors.items())
        outputs = forward(vector)
        log_likelihood = model.likelihood(outputs).log_prob(y).sum(dtype=torch.float64)
        return log_likelihood / temperature + prior

    return density


def nuts_draws(
    density: VectorFunction, start: Tensor, draws: int, chains: int, warmup: int, seed: int
) -> Drawn:
    """Run NUTS over z, w = mode + R z, R R' the inverse of the curvature at the mode.

    Whitened so, the posterior is close to N(0, I), trajectories are short, and chains start from
    z ~ N(0, I), as wide as the posterior. The mode is looked for from the start: training stops
    short of it by many posterior standard deviations, a long way for warm-up.
    """
    start = _mode(density, start)
    root, reference = _whitener(density, start), density(start).item()
    parts = []
    for chain in range(chains):
        with seeded(seed, "nuts", chain):
            parts.append(_chain(density, start, root, reference, draws, warmup))
    values = torch.stack([start + part.pop("surviving") @ root.mT for part in parts])
    stats = {name: torch.stack([part[name] for part in parts]) for name in parts[0]}
    return values, stats.pop("log_density"), stats


def _chain(
    density: VectorFunction,
    start: Tensor,
    root: Tensor,
    reference: float,
    draws: int,
    warmup: int,
) -> dict[str, Tensor]:
    """Return one chain's whitened draws (draws, d) and what the sampler told of each."""
    calls, told = [0], []

    def potential(params: dict[str, Tensor]) -> Tensor:
        calls[0] += 1
        return reference - density(start + root @ params["surviving"])

    def hook(kernel: Any, params: dict[str, Tensor], stage: str, i: int) -> None:  # noqa: ANN401
        if stage.startswith("Sample"):
            told.append([calls[0], kernel.step_size])
        calls[0] = 0

    kernel = NUTS(potential_fn=potential)
    first = {"surviving": torch.randn_like(start)}
    mcmc = MCMC(
        kernel,
        num_samples=draws,
        warmup_steps=warmup,
        initial_params=first,
        hook_fn=hook,
        disable_progbar=True,
    )
    mcmc.run()
    z = mcmc.get_samples()["surviving"]
    diverging = torch.zeros(draws, dtype=torch.bool, device="cpu")
    diverging[mcmc.diagnostics()["divergences"]["chain 0"]] = True
    with torch.no_grad():
        log_p = torch.stack([density(start + root @ one) for one in z])
    steps, sizes = torch.tensor(told, dtype=torch.float64, device="cpu").T
    return {
        "surviving": z,
        "log_density": log_p,
        "diverging": diverging,
        "n_steps": steps.long(),
        "step_size": sizes,
    }


def _mode(density: VectorFunction, start: Tensor) -> Tensor:
    """Return a point of (locally) highest density near the start, by L-BFGS."""
    root = _whitener(density, start)
    z = torch.zeros_like(start).requires_grad_()
    optimizer = torch.optim.LBFGS([z], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> float:
        loss = -density(start + root @ z)
        (z.grad,) = torch.autograd.grad(loss, z)
        return loss.item()

    optimizer.step(closure)
    return start + root @ z.detach()


def _whitener(density: VectorFunction, start: Tensor) -> Tensor:
    """Return R (d, d), R R' = |H|⁻¹, H the Hessian of minus the log density at the start.

    |H| has the absolute eigenvalues (a network's Hessian may be indefinite), bounded from below.
    Any R leaves the posterior as it is; a good one makes NUTS fast.
    """
    hessian = torch.autograd.functional.hessian(lambda v: -density(v), start)
    eigenvalues, vectors = torch.linalg.eigh((hessian + hessian.mT) / 2)
    scale = eigenvalues.abs()
    return vectors * scale.clamp_min(scale.max() * 1e-6).rsqrt()
