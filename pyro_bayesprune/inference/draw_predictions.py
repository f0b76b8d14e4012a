"""What a network predicts under draws of its weights, and before it has seen any data."""

import warnings
from collections.abc import Callable, Mapping

import torch
from pyro import poutine
from torch import Tensor, nn
from torch.func import jvp, vmap

from pyro_bayesprune._utils.random import seeded
from pyro_bayesprune.inference.draws import Draws, gather, weights_with
from pyro_bayesprune.inference.jacobians import jacobian_products
from pyro_bayesprune.inference.layers import has_closed_form
from pyro_bayesprune.models.handler import pruned
from pyro_bayesprune.models.module import BayesianModule, Model, Weights, evaluation_mode

VectorFunction = Callable[[Tensor], Tensor]
BATCH_ELEMENTS = 2**24  # of the scattered draws that are looked at together
FEW = 3  # passes through a dense network in which a draw's tangents are computed forwards
CHUNK = 1000


def network_of(
    model: BayesianModule, weights: Weights, index: Mapping[str, Tensor], x: Tensor
) -> VectorFunction:
    """Return the outputs for ``x`` (n, ...) as a function of the drawn vector (d,).

    Where only the last layer is drawn its inputs are computed once, and only those columns are
    kept that a surviving weight reads.
    """
    last = only_last_layer(model, weights, index, x)
    if last is None:
        return lambda vector: model.outputs(weights_with(vector, weights, index), x)
    names, features = last
    weight = next(n for n in names if n.endswith("weight"))
    bias = next((n for n in names if n.endswith("bias")), None)
    alive = _alive_columns(weights[weight], index.get(weight))
    features = features[:, alive]

    def outputs(vector: Tensor) -> Tensor:
        held = weights_with(vector, weights, index)
        return nn.functional.linear(features, held[weight][:, alive], held[bias] if bias else None)

    return outputs


def _alive_columns(weight: Tensor, drawn: Tensor | None) -> Tensor:
    used = weight != 0
    if drawn is not None:
        used = used.flatten().index_fill(0, drawn, True).view(weight.shape)
    return used.any(0).nonzero().squeeze(1)


def last_layer(model: BayesianModule, weights: Weights, x: Tensor) -> tuple[list[str], Tensor]:
    """Return the last layer's parameters by name, and its inputs (n, features) for ``x``.

    Raises:
        ValueError: if the network does not end in a Linear layer.
    """
    with evaluation_mode(model), torch.no_grad():
        found = [_watched(model, weights, chunk) for chunk in x.split(CHUNK)]
    layer = found[0][0]
    own = [f"{layer}.{n}".lstrip(".") for n in ("weight", "bias")]
    names = [name for name in own if name in model.named_weights()]
    return names, torch.cat([features for _, features in found])


def only_last_layer(
    model: BayesianModule, weights: Weights, index: Mapping[str, Tensor], x: Tensor
) -> tuple[list[str], Tensor] | None:
    """Return what `last_layer` does, or None where parameters of other layers are drawn as well."""
    try:
        names, _ = last_layer(model, weights, x[:1])
    except ValueError:
        return None
    return last_layer(model, weights, x) if set(index) <= set(names) else None


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


def draw_outputs(draws: Draws, x: Tensor) -> Tensor:
    """Return the network's outputs for ``x`` under every draw (chains, draws, n, ...).

    Under draws of method ``laplace``, those of the network linearised at the point.

    Args:
        draws: of `posterior_draws`.
        x: inputs (n, ...); all outputs are held in memory.
    """
    linearised = draws.method == "laplace"
    with evaluation_mode(draws.model), torch.no_grad(), warnings.catch_warnings():
        if linearised and _few(draws, x):
            return _linearised(draws, x)
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
    try:
        found = vmap(output, chunk_size=max(1, BATCH_ELEMENTS // size))(rows)
    except (RuntimeError, NotImplementedError):  # not every operation has a batch (a GRU's)
        found = torch.stack([output(row) for row in rows])
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
