"""Predictions of any Pyro model at a point."""

from collections.abc import Iterator, Mapping

import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from pyro_bayesprune._utils.random import forked_rng
from pyro_bayesprune.data.inputs import tensors
from pyro_bayesprune.data.loading import Data, as_inputs, has_examples
from pyro_bayesprune.inference import targets
from pyro_bayesprune.inference.log_joint import at_point, batches_at, chunk_of
from pyro_bayesprune.models.likelihoods import check_shape
from pyro_bayesprune.models.module import Model, evaluation_mode
from pyro_bayesprune.models.priors import elementwise
from pyro_bayesprune.models.sites import Site, in_data_plate, is_fixed, scored_sites


@torch.no_grad()
def predictive(
    model: Model, weights: Mapping[str, Tensor], data: Data, chunk_size: int | None = None
) -> Iterator[tuple[dist.TorchDistribution, Tensor]]:
    """Yield the distributions of targets at a point, and the targets, by chunks of examples.

    Raises:
        ValueError: if the model has not exactly one observed site inside the plate ``data``.
    """
    at_weights = at_point(model, weights)
    batches = batches_at(data, weights)
    for chunk, y in batches.chunks(chunk_size or chunk_of(batches)):
        with evaluation_mode(model), forked_rng(tensors(chunk)[0].device):  # targets are sampled
            trace = poutine.trace(at_weights).get_trace(chunk)
        unknown = [s["name"] for s in scored_sites(trace) if _is_unknown(s)]
        if unknown:
            raise ValueError(f"prediction needs values of all latent sites, got none of {unknown}")
        sites = [s for s in scored_sites(trace) if in_data_plate(s) and s["name"] not in weights]
        if len(sites) != 1:
            names = [site["name"] for site in sites]
            raise ValueError(f"prediction needs one observed site, the model has {names}")
        fn, mask = sites[0]["fn"], sites[0]["mask"]
        yield fn if mask is None else fn.mask(mask), y


def target_distributions(
    model: Model, weights: Mapping[str, Tensor], x: Data, chunk_size: int | None = None
) -> Iterator[dist.TorchDistribution]:
    """Yield the distributions of the targets of inputs at a point, by chunks of examples.

    Inputs are as in `class_probabilities`. Inputs without a row are replaced by one row of zeros.
    """
    inputs = as_inputs(x, like=next(iter(weights.values()), None))
    return (distribution for distribution, _ in predictive(model, weights, inputs, chunk_size))


def _is_unknown(site: Site) -> bool:
    """Return whether a latent site outside the plate ``data`` has no given value."""
    return not (site["is_observed"] or is_fixed(site) or in_data_plate(site))


def _joined(chunks: list[Tensor], x: Data) -> Tensor:
    return torch.cat(chunks)[: None if has_examples(x) else 0]


def class_probabilities(model: Model, weights: Mapping[str, Tensor], x: Data) -> Tensor:
    """Return the class probabilities (n, ..., classes) of inputs ``x`` at a point.

    A Bernoulli site has the two classes 0 and 1.

    Args:
        model: any Pyro model with one categorical or Bernoulli site.
        weights: the point.
        x: inputs as a tensor (n, ...), a tuple or a dictionary, an array, a torch data set or a
            loader without shuffling. The targets of pairs are ignored.

    Raises:
        ValueError: if the observed site is neither categorical nor Bernoulli.
    """
    chunks = [_class_probabilities(one) for one in target_distributions(model, weights, x)]
    return _joined(chunks, x)


def labelled_probabilities(
    model: Model, weights: Mapping[str, Tensor], data: Data
) -> tuple[Tensor, Tensor]:
    """Return class probabilities (n, ..., classes) and labels (n, ...) of data, in the same order.

    Args:
        model: any Pyro model with one categorical or Bernoulli site.
        weights: the point.
        data: held-out examples in any form that `as_batches` accepts, also in random order.

    Raises:
        ValueError: if the observed site is neither categorical nor Bernoulli.
    """
    pairs = [(_class_probabilities(t), y) for t, y in predictive(model, weights, data)]
    probabilities, labels = zip(*pairs, strict=True)
    return torch.cat(probabilities), torch.cat(labels)


def _class_probabilities(target: dist.TorchDistribution) -> Tensor:
    probabilities = targets.probabilities(target)
    if probabilities is None:
        base = elementwise(target)
        raise ValueError(f"class probabilities need a categorical site, got {base}")
    return probabilities


@torch.no_grad()
def predictions(model: Model, weights: Mapping[str, Tensor], data: Data) -> targets.Predictions:
    """Return the predictions of examples with their targets at a point.

    Args:
        model: any Pyro model with one observed site.
        weights: the point.
        data: held-out examples in any form that `as_batches` accepts.

    Raises:
        ValueError: if the targets do not have the shape of their distribution.
    """
    return targets.mixture(([one], y) for one, y in predictive(model, weights, data))


def mean_prediction(model: Model, weights: Mapping[str, Tensor], x: Data) -> Tensor:
    """Return the mean of the targets' distribution for inputs as in `class_probabilities`.

    Raises:
        ValueError: if the observed site is categorical, or its distribution has no ``mean``.
    """
    means = []
    for target in target_distributions(model, weights, x):
        if isinstance(elementwise(target), torch.distributions.Categorical):
            raise ValueError("classes have no mean: use their probabilities (predict_proba)")
        try:
            means.append(target.mean)
        except NotImplementedError:
            kind = type(elementwise(target)).__name__
            raise ValueError(f"the distribution of the targets, {kind}, has no mean") from None
    return _joined(means, x)


@torch.no_grad()
def held_out_loss(model: Model, weights: Mapping[str, Tensor], data: Data) -> tuple[float, float]:
    """Return the mean negative log likelihood (nats an example) and the score of held-out data.

    The score is the accuracy of classes, and the RMSE of other targets; see `targets`.

    Args:
        model: any Pyro model with one observed site.
        weights: the point.
        data: held-out examples in any form that `as_batches` accepts.

    Raises:
        ValueError: if the targets do not have the shape of their distribution.
    """
    log_likelihood, total, number, size, name = 0.0, 0.0, 0, 0, "accuracy"
    for distribution, y in predictive(model, weights, data):
        check_shape(distribution, y)
        base = elementwise(distribution)
        number, size = number + len(y), size + y.numel()
        log_likelihood += base.log_prob(y).sum(dtype=torch.float64).item()
        total, name = total + targets.score_sum(base, y), targets.score_name(base)
    return -log_likelihood / number, targets.mean_score(total, size, name)
