"""Predictions of any Pyro model at a point."""

import math
from collections.abc import Iterator, Mapping

import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from pyro_bayesprune.inference.log_joint import CHUNK, at_point
from pyro_bayesprune.models.module import Model, evaluation_mode
from pyro_bayesprune.models.priors import elementwise
from pyro_bayesprune.models.sites import in_data_plate, scored_sites


@torch.no_grad()
def predictive(
    model: Model, weights: Mapping[str, Tensor], x: Tensor
) -> Iterator[dist.TorchDistribution]:
    """Yield the distributions of the targets of ``x`` (n, ...) at a point, by chunks of examples.

    Inputs without a row are replaced by one row of zeros, since models may not accept them.

    Raises:
        ValueError: if the model has not exactly one observed site inside the plate ``data``.
    """
    at_weights = at_point(model, weights)
    inputs = x if len(x) else x.new_zeros(1, *x.shape[1:])
    for chunk in inputs.split(CHUNK):
        with evaluation_mode(model), torch.random.fork_rng():  # targets are sampled
            trace = poutine.trace(at_weights).get_trace(chunk)
        sites = [s for s in scored_sites(trace) if in_data_plate(s) and s["name"] not in weights]
        if len(sites) != 1:
            names = [site["name"] for site in sites]
            raise ValueError(f"prediction needs one observed site, the model has {names}")
        yield sites[0]["fn"]


def class_probabilities(model: Model, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Return the class probabilities (n, classes) of inputs ``x`` (n, ...) at a point.

    Raises:
        ValueError: if the observed site is not a categorical distribution.
    """
    chunks = []
    for target in predictive(model, weights, x):
        base = elementwise(target)
        if not isinstance(base, torch.distributions.Categorical):
            raise ValueError(f"class probabilities need a categorical site, got {base}")
        chunks.append(base.probs)
    return torch.cat(chunks)[: len(x)]


def mean_prediction(model: Model, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Return the mean of the targets' distribution for inputs ``x`` (n, ...) at a point.

    Raises:
        ValueError: if the observed site is categorical: classes have no mean.
    """
    means = []
    for target in predictive(model, weights, x):
        if isinstance(elementwise(target), torch.distributions.Categorical):
            raise ValueError("classes have no mean: use their probabilities (predict_proba)")
        means.append(target.mean)
    return torch.cat(means)[: len(x)]


@torch.no_grad()
def held_out_loss(
    model: Model, weights: Mapping[str, Tensor], x: Tensor, y: Tensor
) -> tuple[float, float]:
    """Return the mean negative log likelihood (nats an example) and the accuracy of held-out data.

    The accuracy is NaN where the targets are not classes.
    """
    log_likelihood, correct, start = 0.0, 0.0, 0
    for distribution in predictive(model, weights, x):
        base = elementwise(distribution)
        targets = y[start : start + CHUNK]
        start += len(targets)
        log_likelihood += base.log_prob(targets).sum(dtype=torch.float64).item()
        if isinstance(base, torch.distributions.Categorical):
            correct += (base.logits.argmax(-1) == targets).sum().item()
        else:
            correct = math.nan
    return -log_likelihood / len(x), correct / y.numel()
