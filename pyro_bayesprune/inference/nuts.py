"""Draws by NUTS over the surviving weights, whitened by the curvature at the mode."""

from collections.abc import Mapping
from typing import Any

import torch
from pyro.infer import MCMC, NUTS
from torch import Tensor

from pyro_bayesprune._utils.random import seeded
from pyro_bayesprune.data.dataset import Dataset, Pair, train_part
from pyro_bayesprune.inference.draw_predictions import VectorFunction, network_of
from pyro_bayesprune.inference.draws import scatter
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
    forward, priors = network_of(model, weights, index, x), model.priors_at(weights)

    def density(vector: Tensor) -> Tensor:
        sites = scatter(vector, weights, index)
        values = {n: site.to(weights[n].dtype) for n, site in sites.items()}
        prior = sum(priors[n].log_prob(value).double() for n, value in values.items())
        outputs = forward(vector)
        log_likelihood = model.likelihood(outputs).log_prob(y).sum(dtype=torch.float64)
        return log_likelihood / temperature + prior

    return density


class _Kernel(NUTS):
    """NUTS that records the energy at the start of each transition, which ArviZ's bfmi needs."""

    energy = 0.0

    def _sample_r(self, name: str) -> Any:  # noqa: ANN401  (momenta by site, scaled and not)
        r, r_unscaled = super()._sample_r(name)
        self.energy = float(self._potential_energy_last + self._kinetic_energy(r_unscaled))
        return r, r_unscaled


def nuts_draws(
    density: VectorFunction, start: Tensor, draws: int, chains: int, warmup: int, seed: int
) -> Drawn:
    """Run NUTS over z with w = mode + R z, where R R' is the inverse curvature at the mode.

    The posterior of z is close to N(0, I), so trajectories are short, and chains start from draws
    of N(0, I), which is as wide as the posterior. The mode is searched for first, because training
    ends many posterior standard deviations away from it, too far for the warm-up.
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
    density: VectorFunction, start: Tensor, root: Tensor, reference: float, draws: int, warmup: int
) -> dict[str, Tensor]:
    """Return one chain's whitened draws (draws, d) and the sampler's statistics of each."""
    statistics, evaluations = [], 0

    def potential(params: dict[str, Tensor]) -> Tensor:
        nonlocal evaluations
        evaluations += 1
        return reference - density(start + root @ params["surviving"])

    def record(kernel: Any, params: dict[str, Tensor], stage: str, i: int) -> None:  # noqa: ANN401
        nonlocal evaluations
        if stage.startswith("Sample"):
            statistics.append([evaluations, kernel.step_size, kernel.energy - reference])
        evaluations = 0

    mcmc = MCMC(
        _Kernel(potential_fn=potential),
        num_samples=draws,
        warmup_steps=warmup,
        initial_params={"surviving": torch.randn_like(start)},
        hook_fn=record,
        disable_progbar=True,
    )
    mcmc.run()
    z = mcmc.get_samples()["surviving"]
    diverging = torch.zeros(draws, dtype=torch.bool, device="cpu")
    diverging[mcmc.diagnostics()["divergences"]["chain 0"]] = True
    with torch.no_grad():
        log_density = torch.stack([density(start + root @ one) for one in z])
    steps, sizes, energies = torch.tensor(statistics, dtype=torch.float64, device="cpu").T
    stats = {"diverging": diverging, "n_steps": steps.long(), "step_size": sizes}
    stats["energy"] = energies
    return {"surviving": z, "log_density": log_density} | stats


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
    """Return R (d, d) with R R' = |H|⁻¹, where H is the Hessian of minus the log density.

    |H| has the absolute eigenvalues of H, bounded from below, since a network's Hessian may be
    indefinite. R does not change the posterior, but a good R makes NUTS fast.
    """
    hessian = torch.autograd.functional.hessian(lambda v: -density(v), start)
    eigenvalues, vectors = torch.linalg.eigh((hessian + hessian.mT) / 2)
    scale = eigenvalues.abs()
    return vectors * scale.clamp_min(scale.max() * 1e-6).rsqrt()
