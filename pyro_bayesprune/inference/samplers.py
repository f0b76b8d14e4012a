"""Draws from an approximate posterior around a pruned MAP, on the surviving weights.

A pruned weight is no parameter of the pruned network: it is zero in every draw. What is drawn is
one vector of the surviving weights, scattered into the sites (masked coordinates that are left in
place would be flat, and NUTS would wander off in them). Four methods:

``laplace``: N(θ, P⁻¹) with P = diag(GGN) + diag(δ) at the point θ (`curvature`; MacKay, 1992).
Predictions are those of the network linearised at θ, f(x, θ) + J(x)(w - θ): the model in which the
GGN is the exact curvature (Immer et al., 2021). The diagonal leaves out how weights offset each
other: the more of them, the too unsure its predictions. `judgement` flags where they are poor.

``last_layer_laplace``: the same over the last layer's surviving weights, in which the network is
linear, with P = B ⊗ A + diag(δ): the Kronecker-factored GGN (Ritter et al., 2018) of weights and
bias together, of which the pruned weights' rows and columns are left out.

``last_layer_nuts``: NUTS over the last layer's surviving weights, the rest held at θ. The last
hidden layer's activations are computed once, so a step costs one small product.

``nuts``: NUTS over all surviving weights. Both NUTS are for up to `MAX_NUTS` of them.

All are conditional on the masks, and on scales that a prior samples (fixed at their point). All are
draws of the posterior at the temperature of the fit, p(D|w)^(1/T) p(w).
"""

import time
from collections.abc import Mapping, Sequence
from typing import get_args

from torch import Tensor

from pyro_bayesprune._utils.checks import positive
from pyro_bayesprune.data.dataset import Dataset, Pair, train_part
from pyro_bayesprune.inference.draw_predictions import last_layer
from pyro_bayesprune.inference.draws import Draws, Method, gather, surviving
from pyro_bayesprune.inference.laplace import laplace_draws, last_layer_laplace_draws
from pyro_bayesprune.inference.nuts import log_density, nuts_draws
from pyro_bayesprune.models.module import BayesianModule, evaluation_mode
from pyro_bayesprune.models.plain import Fitted

FEWER = {"nuts": "last_layer_nuts or last_layer_laplace", "last_layer_nuts": "last_layer_laplace"}
MIN_NUTS = 4  # draws of a chain: its diagnostics split it in halves
MAX_NUTS = 1000  # surviving weights: whitening needs their Hessian, NUTS long trajectories
MAX_ELEMENTS = 2**28  # of the draws that are held in memory: 1 GiB in float32


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
    temperature: float | None = None,
) -> Draws:
    """Return draws of the surviving weights around a pruned MAP; see the module.

    Args:
        fit: a `Fit`, a `Run`, or anything with ``model`` (a BayesianModule), ``weights`` and
            ``masks``.
        data: all N training examples.
        method: ``"laplace"``, ``"last_layer_laplace"``, ``"last_layer_nuts"`` or ``"nuts"``.
        sites: parameters to draw; by default the last layer's for ``last_layer_…``, else all.
        draws: of each chain.
        chains: of NUTS; a Laplace approximation's draws are independent and form one chain.
        warmup: steps of each chain that are thrown away.
        seed: of the draws.
        ggn: for ``laplace``, the diagonal that `curvature.ggn_diagonal` returned, if it is known.
        temperature: divides the log likelihood; by default that of the fit.

    Raises:
        ValueError: for a model that is not lifted, an unknown method or site, too many surviving
            weights, or, with a Laplace approximation, a prior that is not an independent zero-mean
            Normal.
    """
    _check(fit, method, draws, chains)
    if temperature is None:
        temperature = getattr(fit, "temperature", 1.0)
    positive("temperature", temperature)
    started = time.perf_counter()
    weights = {n: w.detach() * fit.masks[n] if n in fit.masks else w.detach()
               for n, w in fit.weights.items()}  # fmt: skip
    every = list(fit.model.named_weights())
    if sites is None:
        last = method.startswith("last_layer")
        sites = last_layer(fit.model, weights, train_part(data)[0][:1])[0] if last else every
    unknown = sorted(set(sites) - set(every))
    if unknown:
        raise ValueError(f"unknown sites {unknown}: the network has {every}")
    index = surviving(weights, fit.masks, sites)
    with evaluation_mode(fit.model):  # a density that dropout changes is none
        if method == "laplace":
            _check_memory(index, draws)
            drawn = laplace_draws(fit.model, weights, index, data, draws, seed, ggn, temperature)
        elif method == "last_layer_laplace":
            drawn = last_layer_laplace_draws(
                fit.model, weights, index, data, draws, seed, temperature
            )
        else:
            _check_size(index, method)
            if draws < MIN_NUTS:
                raise ValueError(
                    f"{method} needs at least {MIN_NUTS} draws of each chain, got {draws}"
                )
            density = log_density(fit.model, weights, index, data, temperature)
            drawn = nuts_draws(
                density, gather(weights, index).double(), draws, chains, warmup, seed
            )
    seconds = time.perf_counter() - started
    return Draws(method, fit.model, weights, index, *drawn, seconds, temperature)


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
