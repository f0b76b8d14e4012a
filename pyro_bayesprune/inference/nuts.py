"""Draws by NUTS over the surviving weights, and over other latent sites of a Pyro model."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.transforms import identity_transform

from pyro_bayesprune._utils.progress import draw_progress
from pyro_bayesprune._utils.random import seeded
from pyro_bayesprune.data.loading import Data
from pyro_bayesprune.inference.draw_predictions import VectorFunction, network_of
from pyro_bayesprune.inference.draws import (
    gather,
    masks_of,
    scatter,
    surviving_prior,
    weights_with,
)
from pyro_bayesprune.inference.laplace import Drawn
from pyro_bayesprune.inference.log_joint import at_point, batches_at
from pyro_bayesprune.models.module import BayesianModule, Model, Weights
from pyro_bayesprune.models.sites import (
    Site,
    in_data_plate,
    inspect_model,
    plate_scale,
    scored_sites,
    site_log_prob,
)

SPREAD = 0.1  # of the starts of chains around the point, in transformed coordinates


def log_density(
    model: BayesianModule,
    weights: Weights,
    index: Mapping[str, Tensor],
    data: Data,
    temperature: float = 1.0,
) -> VectorFunction:
    """Return log p(D|w) / T + log p(w) (nats, up to a constant) as a function of the vector (d,).

    Pruned weights have the prior's density at zero, a constant.
    """
    x, y = batches_at(data, weights).whole()
    forward, priors = network_of(model, weights, index, x), model.priors_at(weights)
    likelihood = model.likelihood_at(weights)

    def density(vector: Tensor) -> Tensor:
        sites = scatter(vector, weights, index)
        values = {n: site.to(weights[n].dtype) for n, site in sites.items()}
        prior = sum(priors[n].log_prob(value).double() for n, value in values.items())
        outputs = forward(vector)
        log_likelihood = likelihood(outputs).log_prob(y).sum(dtype=torch.float64)
        return log_likelihood / temperature + prior

    return density


class _Kernel(NUTS):
    """NUTS that records the energy at the start of each transition, which ArviZ's bfmi needs."""

    energy = 0.0

    def _sample_r(self, name: str) -> Any:  # noqa: ANN401  (momenta by site, scaled and not)
        r, r_unscaled = super()._sample_r(name)
        self.energy = float(self._potential_energy_last + self._kinetic_energy(r_unscaled))
        return r, r_unscaled


def _hosted(function: VectorFunction, device: torch.device) -> VectorFunction:
    """Return a function of a vector on the CPU that is computed on a device."""
    return lambda vector: function(vector.to(device)).cpu()


class Surface(NamedTuple):
    """A log density over the reals, for a sampler.

    Vectors and values are on the CPU, where a sampler takes its many small steps. Its random
    numbers are then those of the CPU. The density is computed on the model's device.

    Args:
        density: log density (nats, up to a constant) as a function of a vector (d,).
        start: a vector of the posterior, best near its mode.
        values: the drawn values as a function of the vector.
        log_jacobian: log |d values / d vector| as a function of the vector, part of the density.
        is_smooth: whether the density around its mode is nearly that of a Normal distribution. The
            mode of a hierarchical model is not: its density may grow towards scales of zero.
    """

    density: VectorFunction
    start: Tensor
    values: VectorFunction
    log_jacobian: VectorFunction
    is_smooth: bool


def of_parameters(
    model: BayesianModule,
    weights: Weights,
    index: Mapping[str, Tensor],
    data: Data,
    temperature: float = 1.0,
) -> Surface:
    """Return the posterior of parameters of a lifted network, given all its other sites."""
    start = gather(weights, index).double()
    density = _hosted(log_density(model, weights, index, data, temperature), start.device)
    return Surface(
        density, start.cpu(), lambda vector: vector, lambda vector: vector.new_zeros(()), True
    )


def of_sites(
    model: Model,
    weights: Weights,
    index: Mapping[str, Tensor],
    data: Data,
    temperature: float = 1.0,
) -> Surface:
    """Return the posterior of latent sites of any Pyro model, given its other sites.

    A site is mapped to the real numbers by the transform of its support. A pruned element of a site
    is zero and no coordinate. If the prior of the site factorises, pruned elements do not count in
    it: the prior's scale may be drawn too, and the zeros must not shrink it.
    """
    x, y = batches_at(data, weights).whole()
    sites = inspect_model(model, x, y).latent
    parts = [_part(sites[name], weights[name], positions) for name, positions in index.items()]
    masks = masks_of(weights, index)
    kind = surviving_prior(sites, masks)
    sizes = [len(part.start) for part in parts]

    def values(vector: Tensor) -> Tensor:
        return torch.cat([p.value(v) for p, v in zip(parts, vector.split(sizes), strict=True)])

    def log_jacobian(vector: Tensor) -> Tensor:
        pairs = zip(parts, vector.split(sizes), strict=True)
        return torch.stack([part.log_jacobian(v) for part, v in pairs]).sum()

    def density(vector: Tensor) -> Tensor:
        point = weights_with(values(vector), weights, index)
        trace = poutine.trace(at_point(model, point, masks, kind)).get_trace(x, y)
        terms = [_term(site, temperature) for site in scored_sites(trace)]
        return torch.stack(terms).sum() + log_jacobian(vector)

    start = torch.cat([part.start for part in parts])
    return Surface(
        _hosted(density, start.device),
        start.cpu(),
        _hosted(values, start.device),
        _hosted(log_jacobian, start.device),
        _is_smooth(model, index),
    )


def _is_smooth(model: Model, names: Collection[str]) -> bool:
    """Whether a network's weights are drawn given the scales of their prior; see `Surface`."""
    return isinstance(model, BayesianModule) and not model.hyper_sites() & set(names)


def _term(site: Site, temperature: float) -> Tensor:
    log_prob = site_log_prob(site)
    return log_prob / (plate_scale(site) * temperature) if in_data_plate(site) else log_prob


class _Part(NamedTuple):
    """The drawn elements of one site, and the transform from the real numbers to them."""

    transform: Any
    start: Tensor
    shape: torch.Size

    def value(self, vector: Tensor) -> Tensor:
        return self.transform(vector.view(self.shape)).flatten()

    def log_jacobian(self, vector: Tensor) -> Tensor:
        vector = vector.view(self.shape)
        return self.transform.log_abs_det_jacobian(vector, self.transform(vector)).sum()


def _part(site: Site, weight: Tensor, positions: Tensor) -> _Part:
    weight = weight.detach().double()
    if len(positions) < weight.numel():  # a site that can be pruned is real
        start = weight.flatten()[positions]
        return _Part(identity_transform, start, start.shape)
    transform = biject_to(site["fn"].support)
    start = transform.inv(weight)
    return _Part(transform, start.flatten(), start.shape)


def nuts_draws(
    surface: Surface,
    draws: int,
    chains: int,
    warmup: int,
    seed: int,
    progress: bool = False,
) -> Drawn:
    """Run NUTS over z with a vector = centre + R z.

    On a smooth surface, the centre is the mode and R R' is the inverse curvature there. The
    posterior of z is close to N(0, I), so trajectories are short, and chains start from draws
    of N(0, I), which is as wide as the posterior. The mode is searched for first, because training
    ends many posterior standard deviations away from it, too far for the warm-up. On other surfaces
    the centre is the start, R is `SPREAD` times the identity, and the warm-up adapts the scales.
    """
    density, start = surface.density, surface.start
    root = SPREAD * torch.eye(len(start), dtype=start.dtype, device="cpu")
    if surface.is_smooth:
        start = _mode(density, start)
        root = _whitener(density, start)
    reference, parts = density(start).item(), []
    with draw_progress("nuts", chains * (draws + warmup), enabled=progress) as advance:
        for chain in range(chains):
            with seeded(seed, "nuts", chain):
                parts.append(_chain(density, start, root, reference, draws, warmup, advance))
    vectors = torch.stack([start + part.pop("surviving") @ root.mT for part in parts])
    stats = {name: torch.stack([part[name] for part in parts]) for name in parts[0]}
    flat = vectors.flatten(0, 1)
    with torch.no_grad():
        jacobian = torch.stack([surface.log_jacobian(row) for row in flat])
        values = torch.stack([surface.values(row) for row in flat])
    log_joint = stats.pop("log_density") - jacobian.view(vectors.shape[:2])
    return values.view(*vectors.shape[:2], -1), log_joint, stats


def _chain(
    density: VectorFunction,
    start: Tensor,
    root: Tensor,
    reference: float,
    draws: int,
    warmup: int,
    advance: Callable[[], object],
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
        advance()

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
    return {"surviving": z, "log_density": log_density, "energy": energies} | stats


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
