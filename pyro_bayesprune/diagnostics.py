"""Draws from an approximate posterior around a pruned MAP, on the surviving weights.

A pruned weight is no parameter of the pruned network: it is zero in every draw. What is drawn is
one vector of the surviving weights, scattered into the sites (masked coordinates that are left in
place would be flat, and NUTS would wander off in them). Four methods:

``laplace``: N(θ, P⁻¹) with P = diag(GGN) + diag(δ) at the point θ (`curvature`; MacKay, 1992).
Predictions are those of the network linearised at θ, f(x, θ) + J(x)(w - θ): the model in which the
GGN is the exact curvature (Immer et al., 2021). The diagonal leaves out how weights offset each
other: the more of them, the too unsure its predictions. `judgement` flags where they are poor.

``last_layer_laplace``: the same over the last layer's surviving weights, in which the network is
linear, with P = B ⊗ A + diag(δ): the Kronecker-factored GGN (Ritter et al., 2018), of which the
pruned weights' rows and columns are left out.

``last_layer_nuts``: NUTS over the last layer's surviving weights, the rest held at θ. The last
hidden layer's activations are computed once, so a step costs one small product.

``nuts``: NUTS over all surviving weights. Both NUTS are for up to `MAX_NUTS` of them.

All are conditional on the masks, and on scales that a prior samples (held at their point).
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, get_args

import torch
from pyro.infer import MCMC, NUTS
from torch import Tensor, nn

from pyro_bayesprune.curvature import (
    Kron,
    ggn_diagonal,
    ggn_kron,
    prior_precision,
)
from pyro_bayesprune.data import Dataset, Pair, train_part
from pyro_bayesprune.draws import (
    CHUNK,
    Draws,
    Method,
    VectorFunction,
    gather,
    last_layer,
    network_of,
    only_last_layer,
    priors_at,
    scatter,
    surviving,
)
from pyro_bayesprune.model import BayesianModule, Masks, Weights
from pyro_bayesprune.svi import seeded

FEWER = {"nuts": "last_layer_nuts or last_layer_laplace", "last_layer_nuts": "last_layer_laplace"}

MAX_NUTS = 1000  # surviving weights: whitening needs their Hessian, NUTS long trajectories
MAX_KRON = 12000  # surviving weights of a pruned parameter: their precision is factorised, 1 GiB
MAX_ELEMENTS = 2**28  # of the draws that are held in memory: 1 GiB in float32


class Fitted(Protocol):
    """What draws start from: `Fit` and `Result` are such."""

    @property
    def model(self) -> Any:  # noqa: ANN401  (a BayesianModule is checked for)
        """The lifted network."""

    @property
    def weights(self) -> Weights:
        """A value for each latent site."""

    @property
    def masks(self) -> Masks:
        """A bool tensor for each prunable site, True where a weight is kept."""


def posterior_draws(
    fit: Fitted,
    data: Dataset | Pair,
    method: Method = "laplace",
    *,
    sites: Sequence[str] | None = None,
    draws: int = 250,
    chains: int = 4,
    warmup: int = 200,
    seed: int = 0,
    ggn: Mapping[str, Tensor] | None = None,
) -> Draws:
    """Return draws of the surviving weights around a pruned MAP; see the module.

    Args:
        fit: a `Fit`, a `Result`, or anything with ``model`` (a BayesianModule), ``weights`` and
            ``masks``.
        data: all N training examples.
        method: ``"laplace"``, ``"last_layer_laplace"``, ``"last_layer_nuts"`` or ``"nuts"``.
        sites: parameters to draw; by default the last layer's for ``last_layer_…``, else all.
        draws: of each chain.
        chains: of NUTS; a Laplace approximation's draws are independent and form one chain.
        warmup: steps of each chain that are thrown away.
        seed: of the draws.
        ggn: for ``laplace``, the diagonal that `curvature.ggn_diagonal` returned, if it is known.

    Raises:
        ValueError: for a model that is not lifted, an unknown method or site, too many surviving
            weights, or, with a Laplace approximation, a prior that is not an independent zero-mean
            Normal.
    """
    _check(fit, method, draws, chains)
    started = time.perf_counter()
    weights = {n: w.detach() * fit.masks[n] if n in fit.masks else w.detach()
               for n, w in fit.weights.items()}  # fmt: skip
    every = [n for n, _ in fit.model.net.named_parameters()]
    if sites is None:
        last = method.startswith("last_layer")
        sites = last_layer(fit.model, weights, train_part(data)[0][:1])[0] if last else every
    unknown = sorted(set(sites) - set(every))
    if unknown:
        raise ValueError(f"unknown sites {unknown}: the network has {every}")
    index = surviving(weights, fit.masks, sites)
    if method == "laplace":
        _check_memory(index, draws)
        drawn = _laplace(fit.model, weights, index, data, draws, seed, ggn)
    elif method == "last_layer_laplace":
        drawn = _last_layer_laplace(fit.model, weights, index, data, draws, seed)
    else:
        _check_size(index, method)
        density = log_density(fit.model, weights, index, data)
        drawn = _nuts(density, gather(weights, index).double(), draws, chains, warmup, seed)
    return Draws(method, fit.model, weights, index, *drawn, time.perf_counter() - started)


def _check(fit: Fitted, method: str, draws: int, chains: int) -> None:
    if not isinstance(fit.model, BayesianModule):
        raise ValueError(f"draws need a BayesianModule, got {type(fit.model).__name__}")
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {', '.join(get_args(Method))}, got {method!r}")
    for name, value in {"draws": draws, "chains": chains}.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")


def _check_memory(index: Mapping[str, Tensor], draws: int) -> None:
    size = sum(len(i) for i in index.values())
    if size * draws > MAX_ELEMENTS:
        raise ValueError(
            f"{draws} draws of {size} weights do not fit in memory: draw fewer, or from some "
            f"layers only (sites=)"
        )


def _check_size(index: Mapping[str, Tensor], method: str) -> None:
    size = sum(len(i) for i in index.values())
    if not 0 < size <= MAX_NUTS:
        raise ValueError(
            f"{method} is for 1 to {MAX_NUTS} surviving weights, got {size}: use "
            f"{FEWER[method]}, prune more, or draw from some parameters only (sites=)"
        )


Drawn = tuple[Tensor, Tensor, dict[str, Tensor]]


def _laplace(
    model: BayesianModule,
    weights: Weights,
    index: dict[str, Tensor],
    data: Dataset | Pair,
    draws: int,
    seed: int,
    ggn: Mapping[str, Tensor] | None,
) -> Drawn:
    """Draw w = θ + P^(-1/2) ε, ε ~ N(0, I)."""
    ggn = _ggn(model, weights, index, data) if ggn is None else ggn
    precision = gather(ggn, index) + gather(prior_precision(model, weights), index)
    centre = gather(weights, index)
    with seeded(seed, "laplace"):
        noise = torch.randn(1, draws, len(centre), dtype=centre.dtype)
    log_q = precision.log().sum() / 2 - noise.double().square().sum(-1) / 2
    return centre + noise * precision.rsqrt().to(centre), log_q, {}


def _ggn(
    model: BayesianModule, weights: Weights, index: Mapping[str, Tensor], data: Dataset | Pair
) -> Weights:
    """The GGN's diagonal; of the last layer alone, from its inputs: a fraction of the time."""
    head = _head(model, weights, index, data)
    if head is None:
        return ggn_diagonal(model, weights, data, chunk_size=CHUNK)
    found = ggn_diagonal(head.model, head.weights, head.data)
    return {full: found[n] for n, full in head.names.items()}


class _Head(NamedTuple):
    """The last layer as a model of its own, on its inputs; ``names``: of the whole network."""

    model: BayesianModule
    weights: Weights
    data: Pair
    names: dict[str, str]


def _head(
    model: BayesianModule, weights: Weights, index: Mapping[str, Tensor], data: Dataset | Pair
) -> _Head | None:
    """The last layer, or None where other parameters are drawn as well."""
    x, y = train_part(data)
    last = only_last_layer(model, weights, index, x)
    if last is None:
        return None
    names, features = last
    short = {name.rpartition(".")[2]: name for name in names}
    outputs, inputs = weights[short["weight"]].shape
    layer = nn.Linear(inputs, outputs, "bias" in short, dtype=features.dtype)
    head = BayesianModule(layer, model.prior, model.num_data, model.likelihood)
    return _Head(head, {n: weights[full] for n, full in short.items()}, (features, y), short)


def _last_layer_laplace(
    model: BayesianModule,
    weights: Weights,
    index: dict[str, Tensor],
    data: Dataset | Pair,
    draws: int,
    seed: int,
) -> Drawn:
    """Draw w = θ + P^(-1/2) ε, P the Kronecker-factored GGN and the prior's precision."""
    head = _head(model, weights, index, data)
    if head is None:
        raise ValueError(f"last_layer_laplace draws the last layer's parameters, not {list(index)}")
    factors, delta = ggn_kron(head.model, head.weights, head.data), prior_precision(model, weights)
    centre = gather(weights, index)
    with seeded(seed, "last layer laplace"):
        noise = torch.randn(draws, len(centre), dtype=torch.float64)
    parts = dict(zip(index, noise.split([len(i) for i in index.values()], 1), strict=True))
    short = {full: n for n, full in head.names.items()}
    changes = [
        _kron_noise(factors[short[n]], i, delta[n].flatten()[i], parts[n]) for n, i in index.items()
    ]
    values = centre + torch.cat(changes, 1).to(centre)
    return values[None], -noise.square().sum(-1)[None] / 2, {}


def _kron_noise(kron: Kron, index: Tensor, delta: Tensor, noise: Tensor) -> Tensor:
    """Return P^(-1/2) ε for rows ε (S, d): P = B ⊗ A + diag(δ), of the weights at ``index``.

    Where all are drawn and share one δ, from the factors' eigenvectors; else P is factorised.
    """
    a, b = kron.inputs.double(), kron.outputs.double()
    if len(index) == len(a) * len(b) and (delta == delta[0]).all():
        (in_values, ins), (out_values, outs) = torch.linalg.eigh(a), torch.linalg.eigh(b)
        precision = torch.outer(out_values.clamp(min=0), in_values.clamp(min=0)) + delta[0]
        return (outs @ (noise.view(-1, *precision.shape) * precision.rsqrt()) @ ins.mT).flatten(1)
    if len(index) > MAX_KRON:
        raise ValueError(
            f"last_layer_laplace is for a pruned last layer of up to {MAX_KRON} surviving weights, "
            f"got {len(index)}: use laplace"
        )
    rows, columns = index // len(a), index % len(a)
    precision = b[rows][:, rows].mul_(a[columns][:, columns])  # in place: these are large
    precision.diagonal().add_(delta)
    factor = torch.linalg.cholesky(precision)
    return torch.linalg.solve_triangular(factor.mT, noise.mT, upper=True).mT


def log_density(
    model: BayesianModule,
    weights: Weights,
    index: Mapping[str, Tensor],
    data: Dataset | Pair,
) -> VectorFunction:
    """Return log p(D, w) (nats, up to a constant) as a function of the drawn vector (d,).

    Pruned weights have the prior's density at zero, a constant.
    """
    x, y = train_part(data)
    forward, priors = network_of(model, weights, index, x), priors_at(model, weights, index)

    def density(vector: Tensor) -> Tensor:
        sites = scatter(vector, weights, index)
        prior = sum(fn.log_prob(sites[n].to(weights[n].dtype)).double() for n, fn in priors.items())
        outputs = forward(vector)
        return model.likelihood(outputs).log_prob(y).sum(dtype=torch.float64) + prior

    return density


def _nuts(
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
    diverging = torch.zeros(draws, dtype=torch.bool)
    diverging[mcmc.diagnostics()["divergences"]["chain 0"]] = True
    with torch.no_grad():
        log_p = torch.stack([density(start + root @ one) for one in z])
    steps, sizes = torch.tensor(told, dtype=torch.float64).T
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
