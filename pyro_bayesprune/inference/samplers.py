"""Draws from an approximate posterior around a pruned MAP, on the surviving weights.

A pruned weight is no parameter of the pruned network and is zero in every draw. A draw is one
vector of the surviving weights, which is scattered into the sites. (If the pruned coordinates were
sampled too, the likelihood would be flat in them.) There are four methods:

``laplace``: N(θ, P⁻¹) with P = diag(GGN) + diag(δ) at the point θ (`curvature`; MacKay, 1992).
Predictions are those of the network linearised at θ, f(x, θ) + J(x)(w - θ), the model in which the
GGN is the exact curvature (Immer et al., 2021). The diagonal ignores that weights can compensate
each other. With many weights, the predictions are therefore too uncertain; `reporting.flags` warns
of it.

``last_layer_laplace``: the same over the last layer's surviving weights, in which the network is
linear, with P = B ⊗ A + diag(δ), the Kronecker-factored GGN (Ritter et al., 2018) of weights and
bias together. The rows and columns of pruned weights are left out.

``last_layer_nuts``: NUTS over the last layer's surviving weights, with all other weights fixed at
θ. The inputs of the last layer are computed once, so each step costs one small product.

``nuts``: NUTS over all surviving weights. Both NUTS methods allow up to `MAX_NUTS` weights.
``nuts`` also draws from any other Pyro model whose latent sites are continuous and outside the
plate ``data`` (plates, hierarchical scales, a sampled noise): all its sites, mapped to the reals.

All methods condition on the masks and on the sites that are not drawn: by default the scales that
the prior of a BayesianModule samples, and for other methods than ``nuts`` a learnt noise. All draw
from the posterior at the temperature T of the fit, p(D|w)^(1/T) p(w).
"""

import time
from collections.abc import Sequence
from typing import get_args

from pyro_bayesprune._utils.checks import check_choice, positive
from pyro_bayesprune.data.batches import Batches
from pyro_bayesprune.data.loading import Data
from pyro_bayesprune.inference.draw_predictions import last_layer
from pyro_bayesprune.inference.draws import Draws, Method, surviving
from pyro_bayesprune.inference.laplace import laplace_draws, last_layer_laplace_draws
from pyro_bayesprune.inference.log_joint import batches_at
from pyro_bayesprune.inference.nuts import nuts_draws, of_parameters, of_sites
from pyro_bayesprune.models.module import BayesianModule, Model, Weights, evaluation_mode
from pyro_bayesprune.models.plain import Fitted
from pyro_bayesprune.models.sites import inspect_model

FEWER = {"nuts": "last_layer_nuts or last_layer_laplace", "last_layer_nuts": "last_layer_laplace"}
DRAWS, CHAINS, WARMUP = 250, 4, 200  # the defaults of `posterior_draws`
MIN_NUTS = 4  # draws of a chain, since diagnostics split each chain into halves
MAX_NUTS = 1000  # surviving weights, since whitening needs their Hessian
MAX_ELEMENTS = 2**28  # of all draws: 1 GiB in float32


def posterior_draws(
    fit: Fitted,
    data: Data,
    method: Method = "laplace",
    *,
    sites: Sequence[str] | None = None,
    draws: int = DRAWS,
    chains: int = CHAINS,
    warmup: int = WARMUP,
    seed: int = 0,
    temperature: float | None = None,
    progress: bool = True,
) -> Draws:
    """Return draws of the surviving weights around a pruned MAP; see the module.

    Args:
        fit: a `Fit`, a `Run`, or any object with ``model``, ``weights`` and ``masks``. The model is
            a BayesianModule; for ``"nuts"``, it may be any Pyro model.
        data: all N training examples in any form that `as_batches` accepts. NUTS reads them into
            memory.
        method: ``"laplace"``, ``"last_layer_laplace"``, ``"last_layer_nuts"`` or ``"nuts"``.
        sites: latent sites to draw; by default the last layer's for ``last_layer_…``, else all
            but the scales that the prior of a BayesianModule samples. NUTS can draw these too.
        draws: number of draws of each chain.
        chains: number of chains of NUTS. The independent draws of a Laplace approximation form one.
        warmup: number of steps at the start of each chain that are discarded.
        seed: seed of the draws.
        temperature: divides the log likelihood; by default that of the fit.
        progress: show the progress of NUTS in a terminal or a notebook.

    Raises:
        ValueError: for an unknown method or site, too many surviving weights, a model that is not
            lifted with another method than NUTS, a latent site that is discrete or inside the
            plate, or, with a Laplace approximation, a prior that is not an independent zero-mean
            Normal.
    """
    _check(fit, method, draws, chains, warmup)
    if temperature is None:
        temperature = getattr(fit, "temperature", 1.0)
    positive("temperature", temperature)
    started = time.perf_counter()
    model = fit.model
    weights = {n: w.detach() * fit.masks.get(n, 1) for n, w in fit.weights.items()}
    data = batches_at(data, weights)
    names = _chosen(model, weights, data, method, sites)
    index = surviving(weights, fit.masks, names)
    _check_size(sum(len(i) for i in index.values()), method, draws)
    with evaluation_mode(model):
        if method == "laplace":
            result = laplace_draws(model, weights, index, data, draws, seed, temperature)
        elif method == "last_layer_laplace":
            result = last_layer_laplace_draws(model, weights, index, data, draws, seed, temperature)
        else:
            is_lifted = isinstance(model, BayesianModule)
            plain = is_lifted and set(names) <= set(model.named_weights())
            posterior = of_parameters if plain else of_sites
            surface = posterior(model, weights, index, data, temperature)
            result = nuts_draws(surface, draws, chains, warmup, seed, progress)
    seconds = time.perf_counter() - started
    values, log_density, stats = result
    values = values.to(next(iter(weights.values())).device)
    return Draws(method, model, weights, index, values, log_density, stats, seconds, temperature)


def _chosen(
    model: Model,
    weights: Weights,
    data: Batches,
    method: str,
    sites: Sequence[str] | None,
) -> list[str]:
    """Return the sites to draw; by default those of the method."""
    every = list(inspect_model(model, *data.first(2)).latent)
    unknown = sorted(set(sites or ()) - set(every))
    if unknown:
        raise ValueError(f"unknown sites {unknown}: the model has {every}")
    if sites is not None:
        return list(sites)
    if not isinstance(model, BayesianModule):
        return every
    if method.startswith("last_layer"):
        return last_layer(model, weights, data.first(1)[0])[0]
    if method == "laplace":
        return list(model.named_weights())
    return [name for name in every if name not in model.hyper_sites()]


def _check(fit: Fitted, method: str, draws: int, chains: int, warmup: int) -> None:
    check_choice("method", method, get_args(Method))
    if method != "nuts" and not isinstance(fit.model, BayesianModule):
        raise ValueError(
            f"draws by {method} need a BayesianModule, got {type(fit.model).__name__}: use nuts, "
            f"which draws from any Pyro model"
        )
    for name, value in {"draws": draws, "chains": chains, "warmup": warmup}.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")


def _check_size(size: int, method: str, draws: int) -> None:
    """Raise a ValueError for more, or fewer, weights or draws than a method allows."""
    if method == "laplace" and size * draws > MAX_ELEMENTS:
        raise ValueError(
            f"{draws} draws of {size} weights do not fit in memory: draw fewer, or from some "
            f"layers only (sites=)"
        )
    if method in FEWER and not 0 < size <= MAX_NUTS:
        raise ValueError(
            f"{method} is for 1 to {MAX_NUTS} surviving weights, got {size}: use "
            f"{FEWER[method]}, prune more, or draw from some parameters only (sites=)"
        )
    if method in FEWER and draws < MIN_NUTS:
        raise ValueError(f"{method} needs at least {MIN_NUTS} draws of each chain, got {draws}")
