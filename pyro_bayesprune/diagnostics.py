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
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol, get_args

import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS
from torch import Tensor, nn
from torch.func import jvp, vmap

from pyro_bayesprune.curvature import (
    Kron,
    ggn_diagonal,
    ggn_kron,
    has_closed_form,
    jacobian_products,
    prior_precision,
)
from pyro_bayesprune.data import Dataset, Pair, train_part
from pyro_bayesprune.model import BayesianModule, Masks, Model, Weights, evaluation_mode, pruned
from pyro_bayesprune.svi import seeded

Method = Literal["laplace", "last_layer_laplace", "last_layer_nuts", "nuts"]
LogDensity = Callable[[Tensor], Tensor]
FEWER = {"nuts": "last_layer_nuts or last_layer_laplace", "last_layer_nuts": "last_layer_laplace"}

MAX_NUTS = 1000  # surviving weights: whitening needs their Hessian, NUTS long trajectories
MAX_KRON = 12000  # surviving weights of a pruned parameter: their precision is factorised, 1 GiB
MAX_ELEMENTS = 2**28  # of the draws that are held in memory: 1 GiB in float32
BATCH_ELEMENTS = 2**24  # of the scattered draws that are looked at together
CACHE_ELEMENTS = 2**18  # of the scattered draws whose prior is looked at together: they fit a cache
FEW = 3  # passes through a dense network in which a draw's tangents are computed forwards
CHUNK = 1000


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


@dataclass(frozen=True)
class Draws:
    """Draws of the surviving weights.

    Args:
        method: how they were drawn.
        model: the lifted network.
        weights: the point θ around which they were drawn; holds what is not drawn.
        index: positions of the drawn weights in each flattened site; their order is the vector's.
        values: the drawn vectors (chains, draws, d), in units of the weights.
        log_density: log density of what was drawn from, up to a constant (chains, draws), nats.
        stats: what the sampler told of each draw (chains, draws), by name.
        seconds: wall time.
    """

    method: Method
    model: BayesianModule
    weights: Weights
    index: dict[str, Tensor]
    values: Tensor
    log_density: Tensor
    stats: dict[str, Tensor]
    seconds: float

    @property
    def independent(self) -> bool:
        """Whether draws are independent by construction: then there is no chain to converge."""
        return "laplace" in self.method

    def at(self, chain: int, draw: int) -> Weights:
        """Return all weights of one draw; pruned ones are zero."""
        return _like(self.values[chain, draw], self.weights, self.index)

    def thinned(self, number: int) -> "Draws":
        """Return about ``number`` of the draws, evenly from each chain; all if there are fewer."""
        chains, draws = self.values.shape[:2]
        kept = torch.linspace(0, draws - 1, min(draws, -(-number // chains))).long()
        stats = {name: value[:, kept] for name, value in self.stats.items()}
        values, log_density = self.values[:, kept], self.log_density[:, kept]
        return replace(self, values=values, log_density=log_density, stats=stats)

    def __repr__(self) -> str:
        """Summarise: method, shape, time."""
        chains, draws, size = self.values.shape
        return (
            f"Draws({self.method}: {chains} chains of {draws} draws of {size} surviving weights in "
            f"{', '.join(self.index)}; {self.seconds:.0f} s)"
        )


def surviving(
    weights: Mapping[str, Tensor], masks: Mapping[str, Tensor], sites: Sequence[str]
) -> dict[str, Tensor]:
    """Return the positions of the surviving weights in each flattened site."""
    every = {n: masks.get(n, torch.ones_like(weights[n], dtype=torch.bool)) for n in sites}
    return {n: m.flatten().nonzero().squeeze(1) for n, m in every.items()}


def gather(values: Mapping[str, Tensor], index: Mapping[str, Tensor]) -> Tensor:
    """Return the surviving elements of each site as one vector (d,)."""
    return torch.cat([values[n].detach().flatten()[i] for n, i in index.items()])


def scatter(vector: Tensor, like: Mapping[str, Tensor], index: Mapping[str, Tensor]) -> Weights:
    """Return the sites that hold the elements of ``vector`` (d,), and zeros elsewhere."""
    parts = vector.split([len(i) for i in index.values()])
    return {
        n: vector.new_zeros(like[n].numel()).index_put((i,), part).view(like[n].shape)
        for (n, i), part in zip(index.items(), parts, strict=True)
    }


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
    names, features = _maybe_last_layer(model, weights, x[:1])
    if features is None or not set(index) <= set(names):
        return None
    _, features = last_layer(model, weights, x)
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
) -> LogDensity:
    """Return log p(D, w) (nats, up to a constant) as a function of the drawn vector (d,).

    Pruned weights have the prior's density at zero, a constant.
    """
    x, y = train_part(data)
    forward, priors = network_of(model, weights, index, x), _priors(model, weights, index)

    def density(vector: Tensor) -> Tensor:
        sites = scatter(vector, weights, index)
        prior = sum(fn.log_prob(sites[n].to(weights[n].dtype)).double() for n, fn in priors.items())
        outputs = forward(vector)
        return model.likelihood(outputs).log_prob(y).sum(dtype=torch.float64) + prior

    return density


def _priors(
    model: BayesianModule, weights: Mapping[str, Tensor], index: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Return the priors of the drawn sites, at the scales that the point holds."""
    found = poutine.condition(model.priors, data=dict(weights))()
    return {n: found[n] for n in index}


def network_of(
    model: BayesianModule, weights: Weights, index: Mapping[str, Tensor], x: Tensor
) -> LogDensity:
    """Return the outputs for ``x`` (n, ...) as a function of the drawn vector (d,).

    Where only the last layer is drawn its inputs are computed once, and only those columns are
    kept that a surviving weight reads.
    """
    names, features = _maybe_last_layer(model, weights, x[:1])
    if features is None or not set(index) <= set(names):
        return lambda vector: model.outputs(_like(vector, weights, index), x)
    weight = next(n for n in names if n.endswith("weight"))
    bias = next((n for n in names if n.endswith("bias")), None)
    alive = _alive_columns(weights[weight], index.get(weight))
    features = last_layer(model, weights, x)[1][:, alive]

    def outputs(vector: Tensor) -> Tensor:
        held = _like(vector, weights, index)
        return nn.functional.linear(features, held[weight][:, alive], held[bias] if bias else None)

    return outputs


def _alive_columns(weight: Tensor, drawn: Tensor | None) -> Tensor:
    used = weight != 0
    if drawn is not None:
        used = used.flatten().index_fill(0, drawn, True).view(weight.shape)
    return used.any(0).nonzero().squeeze(1)


def _like(vector: Tensor, weights: Weights, index: Mapping[str, Tensor]) -> Weights:
    """All weights with the drawn ones put in, in the network's precision."""
    dtype = next(iter(weights.values())).dtype
    return weights | scatter(vector.to(dtype), weights, index)


def _maybe_last_layer(
    model: BayesianModule, weights: Weights, x: Tensor
) -> tuple[list[str], Tensor | None]:
    try:
        return last_layer(model, weights, x)
    except ValueError:
        return [], None


def last_layer(model: BayesianModule, weights: Weights, x: Tensor) -> tuple[list[str], Tensor]:
    """Return the last layer's parameters by name, and its inputs (n, features) for ``x``.

    Raises:
        ValueError: if the network does not end in a Linear layer.
    """
    with evaluation_mode(model), torch.no_grad():
        found = [_watched(model, weights, chunk) for chunk in x.split(CHUNK)]
    layer = found[0][0]
    names = [
        f"{layer}.{n}".lstrip(".") for n, _ in model.net.get_submodule(layer).named_parameters()
    ]
    return names, torch.cat([features for _, features in found])


def _watched(model: BayesianModule, weights: Weights, x: Tensor) -> tuple[str, Tensor]:
    seen: list[tuple[str, Tensor, Tensor]] = []

    def watch(name: str, layer: nn.Module) -> torch.utils.hooks.RemovableHandle:
        return layer.register_forward_hook(
            lambda _, args, outputs: seen.append((name, args[0], outputs))
        )

    linear = [(n, m) for n, m in model.net.named_modules() if isinstance(m, nn.Linear)]
    hooks = [watch(name, layer) for name, layer in linear]
    try:
        outputs = model.outputs(weights, x)
    finally:
        for hook in hooks:
            hook.remove()
    if not seen or seen[-1][2] is not outputs or seen[-1][1].dim() != 2:
        raise ValueError(f"{type(model.net).__name__} does not end in a Linear layer of vectors")
    return seen[-1][0], seen[-1][1]


def _nuts(
    density: LogDensity, start: Tensor, draws: int, chains: int, warmup: int, seed: int
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
    density: LogDensity,
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


def _mode(density: LogDensity, start: Tensor) -> Tensor:
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


def _whitener(density: LogDensity, start: Tensor) -> Tensor:
    """Return R (d, d), R R' = |H|⁻¹, H the Hessian of minus the log density at the start.

    |H| has the absolute eigenvalues (a network's Hessian may be indefinite), bounded from below.
    Any R leaves the posterior as it is; a good one makes NUTS fast.
    """
    hessian = torch.autograd.functional.hessian(lambda v: -density(v), start)
    eigenvalues, vectors = torch.linalg.eigh((hessian + hessian.mT) / 2)
    scale = eigenvalues.abs()
    return vectors * scale.clamp_min(scale.max() * 1e-6).rsqrt()


def draw_outputs(draws: Draws, x: Tensor, *, linearised: bool | None = None) -> Tensor:
    """Return the network's outputs for ``x`` under every draw (chains, draws, n, ...).

    Args:
        draws: of `posterior_draws`.
        x: inputs (n, ...); all outputs are held in memory.
        linearised: outputs of the network linearised at the point; by default for ``laplace``.
    """
    if linearised is None:
        linearised = draws.method == "laplace"
    if linearised and _few(draws, x):
        return _linearised(draws, x)
    with evaluation_mode(draws.model), torch.no_grad(), warnings.catch_warnings():
        # PyTorch's own, at the first jvp of a process
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", DeprecationWarning)
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
        chunks = [_chunk_outputs(draws, chunk, linearised) for chunk in x.split(CHUNK)]
    return torch.cat(chunks, 2)


def _few(draws: Draws, x: Tensor) -> bool:
    """Whether so few weights were drawn that their Jacobian is cheaper than a tangent a draw."""
    classes = draws.model.outputs(draws.weights, x[:1]).numel()
    size = sum(w.numel() for w in draws.weights.values())
    few = classes * draws.values.shape[-1] <= FEW * size
    return few and has_closed_form(draws.model, draws.weights, x)


def _linearised(draws: Draws, x: Tensor) -> Tensor:
    """f(x, θ) + J(x) (w - θ) for all draws w, the Jacobian computed once for all of them."""
    changes = (draws.values - gather(draws.weights, draws.index)).flatten(0, 1)
    sizes = [len(i) for i in draws.index.values()]
    parts = dict(zip(draws.index, changes.split(sizes, -1), strict=True))
    found = []
    for chunk in x.split(CHUNK):
        value, change = jacobian_products(draws.model, draws.weights, chunk, draws.index, parts)
        found.append(value + change)
    return torch.cat(found, 1).unflatten(0, draws.values.shape[:2])


def _chunk_outputs(draws: Draws, x: Tensor, linearised: bool) -> Tensor:
    forward = network_of(draws.model, draws.weights, draws.index, x)
    centre = gather(draws.weights, draws.index).to(draws.values.dtype)

    def output(vector: Tensor) -> Tensor:
        if not linearised:
            return forward(vector)
        value, change = jvp(forward, (centre,), (vector - centre,))[:2]
        return value + change

    size = sum(w.numel() for w in draws.weights.values()) + 100 * len(x)
    rows = draws.values.flatten(0, 1)
    found = vmap(output, chunk_size=max(1, BATCH_ELEMENTS // size))(rows)
    return found.view(*draws.values.shape[:2], *found.shape[1:])


def log_likelihood(model: BayesianModule, outputs: Tensor, y: Tensor) -> Tensor:
    """Return log p(y_n | x_n, w) for every draw and example (chains, draws, n), nats.

    Args:
        model: its likelihood.
        outputs: of `draw_outputs` for the examples.
        y: their targets (n, ...).
    """
    flat = [model.likelihood(out).log_prob(y) for out in outputs.flatten(0, 1)]
    return torch.stack(flat).view(*outputs.shape[:2], -1)


def log_prior(draws: Draws) -> dict[str, Tensor]:
    """Return the log prior density of each drawn site (chains, draws), nats."""
    priors = _priors(draws.model, draws.weights, draws.index)
    parts = draws.values.flatten(0, 1).split([len(i) for i in draws.index.values()], -1)
    found = {}
    for (name, index), part in zip(draws.index.items(), parts, strict=True):
        like = draws.weights[name]
        rows = [
            priors[name].log_prob(_scattered(some, index, like)).double()
            for some in part.split(max(1, CACHE_ELEMENTS // like.numel()))
        ]
        found[name] = torch.cat(rows).view(draws.values.shape[:2])
    return found


def _scattered(rows: Tensor, index: Tensor, like: Tensor) -> Tensor:
    """Put rows (n, d) into n copies of a site (n, *shape), zero elsewhere."""
    whole = rows.new_zeros(len(rows), like.numel(), dtype=like.dtype)
    return whole.index_copy(1, index, rows.to(like.dtype)).view(-1, *like.shape)


def predict_proba(draws: Draws, x: Tensor) -> Tensor:
    """Return class probabilities (n, classes), averaged over all draws."""
    chunks = [draw_outputs(draws, chunk).softmax(-1).mean((0, 1)) for chunk in x.split(CHUNK)]
    return torch.cat(chunks)


def prior_predictive(
    model: Model,
    x: Tensor,
    *,
    draws: int = 50,
    masks: Mapping[str, Tensor] | None = None,
    seed: int = 0,
) -> Tensor:
    """Return targets (draws, n, ...) that the model samples for ``x`` before it has seen any data.

    Args:
        model: any Pyro model that returns its observed site, as a BayesianModule does.
        x: inputs (n, ...).
        draws: number of draws of all weights and targets.
        masks: weights that are pruned.
        seed: of the draws.
    """
    inner = pruned(model, masks) if masks else model
    with seeded(seed, "prior predictive"), evaluation_mode(model), torch.no_grad(), poutine.block():
        return torch.stack([inner(x) for _ in range(draws)])
