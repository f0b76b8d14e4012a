"""Predictions of a network under draws of its weights from the posterior or the prior."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext

import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.func import jvp, vmap

from pyro_bayesprune._utils.random import seeded
from pyro_bayesprune.data.inputs import Inputs, examples, mapped, num_examples, split, tensors
from pyro_bayesprune.data.loading import Data
from pyro_bayesprune.inference.draws import Draws, gather, weights_with
from pyro_bayesprune.inference.jacobians import jacobian_products
from pyro_bayesprune.inference.layers import (
    LayerCall,
    closed_form_layers,
    has_closed_form,
    record_layers,
)
from pyro_bayesprune.inference.log_joint import batches_at
from pyro_bayesprune.inference.prediction import target_distributions
from pyro_bayesprune.inference.targets import Predictions, mixture, probabilities
from pyro_bayesprune.models.likelihoods import check_shape
from pyro_bayesprune.models.module import BayesianModule, Model, Weights, evaluation_mode
from pyro_bayesprune.models.sites import in_data_plate, scored_sites

VectorFunction = Callable[[Tensor], Tensor]
BATCH_ELEMENTS = 2**24  # of scattered draws that are evaluated together
FEW = 3  # cost of one draw's tangent, in products with all weights
CHUNK = 1000  # examples


def network_of(
    model: BayesianModule, weights: Weights, index: Mapping[str, Tensor], x: Inputs
) -> VectorFunction:
    """Return the outputs for ``x`` (n, ...) as a function of the drawn vector (d,).

    If only the last layer is drawn, its inputs are computed once, and only for the columns that
    have a nonzero or drawn weight.
    """
    if not only_last_layer(model, weights, index, x):
        return lambda vector: model.outputs(weights_with(vector, weights, index), x)
    names, features = last_layer(model, weights, x)
    weight = next(n for n in names if n.endswith("weight"))
    bias = next((n for n in names if n.endswith("bias")), None)
    used = weights[weight] != 0
    if weight in index:
        used = used.flatten().index_fill(0, index[weight], True).view_as(used)
    columns = used.any(0).nonzero().squeeze(1)
    features = features[:, columns]

    def outputs(vector: Tensor) -> Tensor:
        drawn = weights_with(vector, weights, index)
        return nn.functional.linear(
            features, drawn[weight][:, columns], drawn[bias] if bias else None
        )

    return outputs


def last_layer(model: BayesianModule, weights: Weights, x: Inputs) -> tuple[list[str], Tensor]:
    """Return the names of the last layer's parameters, and its inputs (n, features) for ``x``.

    Raises:
        ValueError: if the network does not end in a Linear layer.
    """
    with evaluation_mode(model), torch.no_grad():
        calls = [_last_linear(model, weights, chunk) for chunk in split(x, CHUNK)]
    names = [n for n in (calls[0].weight, calls[0].bias) if n in model.named_weights()]
    return names, torch.cat([call.inputs for call in calls])


def only_last_layer(
    model: BayesianModule, weights: Weights, index: Mapping[str, Tensor], x: Inputs
) -> bool:
    """Return whether all drawn parameters are those of `last_layer`."""
    try:
        names, _ = last_layer(model, weights, examples(x, slice(1)))
    except ValueError:
        return False
    return set(index) <= set(names)


def _last_linear(model: BayesianModule, weights: Weights, x: Inputs) -> LayerCall:
    """The call of the Linear layer whose outputs are those of the network."""
    linear = [name for name, m in model.net.named_modules() if isinstance(m, nn.Linear)]
    outputs, calls = record_layers(model, weights, x, linear)
    ends = bool(calls) and calls[-1].copy is outputs and calls[-1].inputs.dim() == 2
    # A layer whose weights are used elsewhere too, or not trained, has no inputs that stay fixed.
    if not ends or calls[-1].name not in closed_form_layers(model, weights, x):
        raise ValueError(
            f"{type(model.net).__name__} does not end in a Linear layer of vectors that trains "
            f"weights of its own"
        )
    return calls[-1]


def draw_outputs(draws: Draws, x: Inputs) -> Tensor:
    """Return the network's outputs for ``x`` under every draw (chains, draws, n, ...).

    For draws of method ``laplace``, these are outputs of the network linearised at the point.

    Args:
        draws: a result of `posterior_draws`.
        x: inputs (n, ...). All outputs must fit into memory.
    """
    linearised = draws.method == "laplace"
    x = mapped(lambda part: part.to(draws.values.device), x)
    with evaluation_mode(draws.model), torch.no_grad(), warnings.catch_warnings():
        if linearised and _jacobian_is_cheaper(draws, x):
            return _linearised(draws, x)
        # PyTorch issues this warning at the first jvp of a process.
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated")
        with _derivable_attention() if linearised else nullcontext():
            chunks = [_chunk_outputs(draws, chunk, linearised) for chunk in split(x, CHUNK)]
    return torch.cat(chunks, 2)


@contextmanager
def _derivable_attention() -> Iterator[None]:
    """Compute attention by operations that have tangents, unlike PyTorch's fused one."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _jacobian_is_cheaper(draws: Draws, x: Inputs) -> bool:
    """Whether the Jacobian by the drawn weights costs less than one tangent for each draw."""
    classes = draws.model.outputs(draws.weights, examples(x, slice(1))).numel()
    size = sum(w.numel() for w in draws.weights.values())
    few = classes * draws.values.shape[-1] <= FEW * size
    return few and has_closed_form(draws.model, draws.weights, x)


def _linearised(draws: Draws, x: Inputs) -> Tensor:
    """f(x, θ) + J(x) (w - θ) for all draws w, with one computation of the Jacobian J(x)."""
    changes = (draws.values - gather(draws.weights, draws.index)).flatten(0, 1)
    sizes = [len(i) for i in draws.index.values()]
    parts = dict(zip(draws.index, changes.split(sizes, -1), strict=True))
    outputs = []
    for chunk in split(x, CHUNK):
        value, change = jacobian_products(draws.model, draws.weights, chunk, draws.index, parts)
        outputs.append(value + change)
    return torch.cat(outputs, 1).unflatten(0, draws.values.shape[:2])


def _chunk_outputs(draws: Draws, x: Inputs, linearised: bool) -> Tensor:
    forward = network_of(draws.model, draws.weights, draws.index, x)
    centre = gather(draws.weights, draws.index).to(draws.values.dtype)

    def output(vector: Tensor) -> Tensor:
        if not linearised:
            return forward(vector)
        value, change = jvp(forward, (centre,), (vector - centre,))[:2]
        return value + change

    size = sum(w.numel() for w in draws.weights.values()) + 100 * num_examples(x)
    rows = draws.values.flatten(0, 1)
    try:
        outputs = vmap(output, chunk_size=max(1, BATCH_ELEMENTS // size))(rows)
    except (RuntimeError, NotImplementedError):  # some operations, such as a GRU, have no vmap
        outputs = torch.stack([output(row) for row in rows])
    return outputs.view(*draws.values.shape[:2], *outputs.shape[1:])


def drawn_targets(draws: Draws, x: Inputs) -> list[dist.TorchDistribution]:
    """Return the distribution of the targets of ``x`` (n, ...) for every draw, chain by chain.

    For a lifted network it is computed in float64 from the outputs.
    """
    if not isinstance(draws.model, BayesianModule):
        points, number = draws.each(), num_examples(x)
        return [next(target_distributions(draws.model, w, x, number)) for w in points]
    return likelihoods(draws, draw_outputs(draws, x).double())


def likelihoods(draws: Draws, outputs: Tensor) -> list[dist.TorchDistribution]:
    """Return the distribution of the targets for every draw, from the outputs of `draw_outputs`."""
    model, flat = draws.model, outputs.flatten(0, 1)
    if draws.of_parameters:
        likelihood = model.likelihood_at(draws.weights)
        return [likelihood(out) for out in flat]
    return [model.likelihood_at(w)(out) for w, out in zip(draws.each(), flat, strict=True)]


def log_likelihood(draws: Draws, x: Inputs, y: Tensor) -> Tensor:
    """Return log p(y_n | x_n, w) for every draw and example (chains, draws, n), float64, nats."""
    y = y.to(draws.values.device)
    drawn = drawn_targets(draws, x)
    check_shape(drawn[0], y)
    flat = torch.stack([one.log_prob(y).double() for one in drawn])
    return flat.view(*draws.values.shape[:2], -1)


def predictions(draws: Draws, data: Data) -> Predictions:
    """Return the predictions of examples with their targets, averaged over all draws."""
    chunks = batches_at(data, draws.weights).chunks(CHUNK)
    return mixture((drawn_targets(draws, x), y) for x, y in chunks)


def predict_proba(draws: Draws, x: Inputs) -> Tensor:
    """Return class probabilities (n, ..., classes), averaged over all draws."""
    return torch.cat([_mean_probabilities(drawn_targets(draws, part)) for part in split(x, CHUNK)])


def _mean_probabilities(drawn: list[dist.TorchDistribution]) -> Tensor:
    parts = [probabilities(one) for one in drawn]
    if parts[0] is None:
        raise ValueError(f"class probabilities need a categorical site, got {drawn[0]}")
    return torch.stack(parts).mean(0)  # type: ignore[arg-type]


def prior_predictive(model: Model, x: Inputs, *, draws: int = 50, seed: int = 0) -> Tensor:
    """Return targets (draws, n, ...) that the model samples for ``x`` from its prior.

    Args:
        model: any Pyro model with one observed site inside the plate ``data``.
        x: inputs (n, ...).
        draws: number of draws of all weights and targets.
        seed: seed of the draws.
    """
    with (
        seeded(seed, "prior predictive", device=tensors(x)[0].device),
        evaluation_mode(model),
        torch.no_grad(),
        poutine.block(),
    ):
        traces = (poutine.trace(model).get_trace(x) for _ in range(draws))
        return torch.stack([next(filter(in_data_plate, scored_sites(t)))["value"] for t in traces])
