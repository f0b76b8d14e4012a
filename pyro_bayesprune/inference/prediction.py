"""Predictions of any Pyro model at a point."""

from collections.abc import Iterator, Mapping

import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from pyro_bayesprune.inference import targets
from pyro_bayesprune.inference.log_joint import CHUNK, at_point
from pyro_bayesprune.models.module import Model, evaluation_mode
from pyro_bayesprune.models.priors import elementwise
from pyro_bayesprune.models.sites import in_data_plate, scored_sites


@torch.no_grad()
def predictive(
    model: Model, weights: Mapping[str, Tensor], x: Tensor, chunk_size: int = CHUNK
) -> Iterator[dist.TorchDistribution]:
    """Yield the distributions of the targets of ``x`` (n, ...) at a point, by chunks of examples.

    Inputs without a row are replaced by one row of zeros, since models may not accept them.

    Raises:
        ValueError: if the model has not exactly one observed site inside the plate ``data``.
    """
    at_weights = at_point(model, weights)
    inputs = x if len(x) else x.new_zeros(1, *x.shape[1:])
    for chunk in inputs.split(chunk_size):
        with evaluation_mode(model), torch.random.fork_rng():  # targets are sampled
            trace = poutine.trace(at_weights).get_trace(chunk)
        sites = [s for s in scored_sites(trace) if in_data_plate(s) and s["name"] not in weights]
        if len(sites) != 1:
            names = [site["name"] for site in sites]
            raise ValueError(f"prediction needs one observed site, the model has {names}")
        yield sites[0]["fn"]


def class_probabilities(model: Model, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Return the class probabilities (n, ..., classes) of inputs ``x`` (n, ...) at a point.

    A Bernoulli site has the two classes 0 and 1.

    Raises:
        ValueError: if the observed site is neither categorical nor Bernoulli.
    """
    chunks = []
    for target in predictive(model, weights, x):
        probabilities = targets.probabilities(target)
        if probabilities is None:
            base = elementwise(target)
            raise ValueError(f"class probabilities need a categorical site, got {base}")
        chunks.append(probabilities)
    return torch.cat(chunks)[: len(x)]


@torch.no_grad()
def predictions(
    model: Model, weights: Mapping[str, Tensor], x: Tensor, y: Tensor
) -> targets.Predictions:
    """Return the predictions of ``x`` (n, ...) with targets ``y`` (n, ...) at a point."""
    distributions = ([one] for one in predictive(model, weights, x))
    return targets.mixture(zip(distributions, y.split(CHUNK), strict=True))


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
    """Return the mean negative log likelihood (nats an example) and the score of held-out data.

    The score is the accuracy of classes, and the RMSE of other targets; see `targets`.
    """
    log_likelihood, total, start, name = 0.0, 0.0, 0, "accuracy"
    for distribution in predictive(model, weights, x):
        base = elementwise(distribution)
        observed = y[start : start + CHUNK]
        start += len(observed)
        log_likelihood += base.log_prob(observed).sum(dtype=torch.float64).item()
        total, name = total + targets.score_sum(base, observed), targets.score_name(base)
    return -log_likelihood / len(x), targets.mean_score(total, y.numel(), name)
