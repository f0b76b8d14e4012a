"""Likelihoods: functions from a network's outputs to the distribution of the targets.

Any such function can be the likelihood of a `BayesianModule`. Those here also have a known
curvature in the outputs, which Laplace approximations, the evidence and conditioning need. How
targets are predicted, and by which metrics, follows from their distribution: `inference.targets`.

========================  ==================  ==============================  ===================
likelihood                outputs             targets                         distribution
========================  ==================  ==============================  ===================
``categorical``           (n, ..., classes)   (n, ...) integers               softmax of logits
``bernoulli``             (n, ...)            (n, ...) 0. and 1.              sigmoid of logits
``gaussian(scale)``       (n, ...)            (n, ...) real                   mean, fixed noise
``gaussian(prior)``       (n, ...)            (n, ...) real                   mean, learnt noise
``poisson``               (n, ...)            (n, ...) counts as floats       exp of outputs
========================  ==================  ==============================  ===================

Several targets of an example (tokens, pixels, labels, outputs) are independent given the weights.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from pyro_bayesprune._utils.checks import positive

Likelihood = Callable[[Tensor], dist.TorchDistribution]
NOISE = "noise"  # the site of a learnt noise


def categorical(outputs: Tensor) -> dist.TorchDistribution:
    """Return the distribution of class labels (n, ...) for logits (n, ..., classes)."""
    labels = dist.Categorical(logits=outputs, validate_args=False)
    return labels.to_event(outputs.dim() - 2) if outputs.dim() > 2 else labels


def bernoulli(outputs: Tensor) -> dist.TorchDistribution:
    """Return the distribution of labels 0. and 1. (n, ...) for logits (n, ...), one per label."""
    return dist.Bernoulli(logits=outputs).to_event(outputs.dim() - 1)


def poisson(outputs: Tensor) -> dist.TorchDistribution:
    """Return the distribution of counts (n, ...) whose logarithmic rates are the outputs."""
    return dist.Poisson(outputs.exp()).to_event(outputs.dim() - 1)


@dataclass(frozen=True)
class gaussian:  # noqa: N801  (used as a function: gaussian(0.1))
    """Likelihood N(outputs, scale²) of targets that have the shape of the outputs.

    Args:
        scale: standard deviation of the noise, in the units of the targets; or its prior, a
            distribution of a positive number. The noise is then learnt: it is the latent site
            ``noise``, which a fit moves to its mode together with the weights. Choose a prior that
            vanishes at zero, such as a LogNormal: where the network can fit all targets exactly,
            the likelihood grows without bound as the noise goes to zero.

    Example:
        >>> gaussian(dist.LogNormal(0.0, 1.0)).is_learnt
        True
    """

    scale: float | dist.TorchDistribution = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.scale, torch.distributions.Distribution):
            positive("scale of a gaussian likelihood", self.scale)
        elif self.scale.batch_shape + self.scale.event_shape:
            raise ValueError(f"the prior of the noise must be of one number, got {self.scale}")

    @property
    def is_learnt(self) -> bool:
        """Whether the noise is a latent site."""
        return isinstance(self.scale, torch.distributions.Distribution)

    def __call__(self, outputs: Tensor) -> dist.TorchDistribution:
        """Return the distribution of the targets (n, ...) given outputs (n, ...)."""
        if self.is_learnt:
            scale = pyro.sample(NOISE, self.scale).to(outputs.device)
        else:  # a number would be copied to the device in each step
            scale = outputs.new_full((), self.scale)
        return dist.Normal(outputs, scale).to_event(outputs.dim() - 1)


def check_shape(targets: dist.TorchDistribution, y: Tensor) -> None:
    """Raise a ValueError unless ``y`` has the shape of the distribution of the targets.

    Densities and errors of other shapes, such as (n,) and (n, 1), would be those of all pairs.
    """
    if targets.shape() != y.shape:
        raise ValueError(
            f"targets must have the shape of the outputs' distribution, "
            f"{tuple(targets.shape())}, got {tuple(y.shape)}; the leftmost dimension is that of "
            f"the examples"
        )


def at_values(likelihood: Likelihood, values: Mapping[str, Tensor]) -> Likelihood:
    """Return a likelihood that takes what it samples, such as a learnt noise, from ``values``."""
    if not has_known_curvature(likelihood):
        return poutine.condition(likelihood, data=dict(values))
    if isinstance(likelihood, gaussian) and likelihood.is_learnt:
        return gaussian(float(values[NOISE]))
    return likelihood


def has_known_curvature(likelihood: Any) -> bool:  # noqa: ANN401
    """Return whether the Hessian of the log likelihood in the outputs is implemented."""
    return isinstance(likelihood, gaussian) or any(
        likelihood is known for known in (categorical, bernoulli, poisson)
    )


def output_scale(likelihood: Likelihood, outputs: Tensor) -> Tensor | float:
    """Return 1/√h for each output, where the targets are independent given the outputs.

    Here h is the Fisher information of one output: 1/scale² (gaussian), p (1 - p) (bernoulli), the
    rate (poisson). For these it is minus the second derivative of the log likelihood as well.
    """
    if isinstance(likelihood, gaussian):
        return likelihood.scale
    if likelihood is poisson:
        return (-outputs / 2).exp()
    p = outputs.sigmoid()
    return (p * (1 - p)).rsqrt()
