"""Predictions of any Pyro model at a point."""

import math
from collections.abc import Iterator, Mapping

import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from pyro_bayesprune.data.loading import Data, as_inputs, has_examples
from pyro_bayesprune.inference.log_joint import CHUNK, at_point, batches_at
from pyro_bayesprune.models.module import Model, evaluation_mode
from pyro_bayesprune.models.priors import elementwise
from pyro_bayesprune.models.sites import in_data_plate, scored_sites


@torch.no_grad()
def predictive(
    model: Model, weights: Mapping[str, Tensor], data: Data
) -> Iterator[tuple[dist.TorchDistribution, Tensor]]:
    """Yield the distributions of targets at a point, and the targets, by chunks of examples.

    Raises:
        ValueError: if the model has not exactly one observed site inside the plate ``data``.
    """
    at_weights = at_point(model, weights)
    for chunk, targets in batches_at(data, weights).chunks(CHUNK):
        with evaluation_mode(model), torch.random.fork_rng():  # targets are sampled
            trace = poutine.trace(at_weights).get_trace(chunk)
        sites = [s for s in scored_sites(trace) if in_data_plate(s) and s["name"] not in weights]
        if len(sites) != 1:
            names = [site["name"] for site in sites]
            raise ValueError(f"prediction needs one observed site, the model has {names}")
        yield sites[0]["fn"], targets


def _of_inputs(
    model: Model, weights: Mapping[str, Tensor], x: Data
) -> Iterator[dist.TorchDistribution]:
    """Yield the distributions of the targets of inputs, by chunks."""
    inputs = as_inputs(x, like=next(iter(weights.values()), None))
    return (distribution for distribution, _ in predictive(model, weights, inputs))


def _joined(chunks: list[Tensor], x: Data) -> Tensor:
    return torch.cat(chunks)[: None if has_examples(x) else 0]


def class_probabilities(model: Model, weights: Mapping[str, Tensor], x: Data) -> Tensor:
    """Return the class probabilities (n, classes) of inputs ``x`` at a point.

    Args:
        model: any Pyro model with one categorical site.
        weights: the point.
        x: inputs as a tensor (n, ...), a tuple or a dictionary, an array, a torch data set or a
            loader without shuffling. The targets of pairs are ignored.

    Raises:
        ValueError: if the observed site is not a categorical distribution.
    """
    chunks = [_class_probabilities(target) for target in _of_inputs(model, weights, x)]
    return _joined(chunks, x)


def labelled_probabilities(
    model: Model, weights: Mapping[str, Tensor], data: Data
) -> tuple[Tensor, Tensor]:
    """Return class probabilities (n, classes) and labels (n,) of data, in the same order.

    Args:
        model: any Pyro model with one categorical site.
        weights: the point.
        data: held-out examples in any form that `as_batches` accepts, also in random order.

    Raises:
        ValueError: if the observed site is not a categorical distribution.
    """
    pairs = [(_class_probabilities(t), y) for t, y in predictive(model, weights, data)]
    probabilities, labels = zip(*pairs, strict=True)
    return torch.cat(probabilities), torch.cat(labels)


def _class_probabilities(target: dist.TorchDistribution) -> Tensor:
    base = elementwise(target)
    if not isinstance(base, torch.distributions.Categorical):
        raise ValueError(f"class probabilities need a categorical site, got {base}")
    return base.probs


def mean_prediction(model: Model, weights: Mapping[str, Tensor], x: Data) -> Tensor:
    """Return the mean of the targets' distribution for inputs as in `class_probabilities`.

    Raises:
        ValueError: if the observed site is categorical: classes have no mean.
    """
    means = []
    for target in _of_inputs(model, weights, x):
        if isinstance(elementwise(target), torch.distributions.Categorical):
            raise ValueError("classes have no mean: use their probabilities (predict_proba)")
        means.append(target.mean)
    return _joined(means, x)


@torch.no_grad()
def held_out_loss(model: Model, weights: Mapping[str, Tensor], data: Data) -> tuple[float, float]:
    """Return the mean negative log likelihood (nats an example) and the accuracy of held-out data.

    The accuracy is NaN where the targets are not classes.

    Args:
        model: any Pyro model with one observed site.
        weights: the point.
        data: held-out examples in any form that `as_batches` accepts.
    """
    log_likelihood, correct, number, size = 0.0, 0.0, 0, 0
    for distribution, targets in predictive(model, weights, data):
        base = elementwise(distribution)
        number, size = number + len(targets), size + targets.numel()
        log_likelihood += base.log_prob(targets).sum(dtype=torch.float64).item()
        if isinstance(base, torch.distributions.Categorical):
            correct += (base.logits.argmax(-1) == targets).sum().item()
        else:
            correct = math.nan
    return -log_likelihood / number, correct / size
