"""Likelihoods: functions from a network's outputs to the distribution of the targets."""

from dataclasses import dataclass

import pyro.distributions as dist
from torch import Tensor

from pyro_bayesprune._utils.checks import positive


def categorical(outputs: Tensor) -> dist.TorchDistribution:
    """Return the distribution of class labels (n,) for logits (n, classes)."""
    return dist.Categorical(logits=outputs, validate_args=False)


@dataclass(frozen=True)
class gaussian:  # noqa: N801  (used as a function: gaussian(0.1))
    """Likelihood N(outputs, scale²) of targets that have the shape of the outputs."""

    scale: float = 1.0

    def __post_init__(self) -> None:
        positive("scale of a gaussian likelihood", self.scale)

    def __call__(self, outputs: Tensor) -> dist.TorchDistribution:
        """Return the distribution of the targets (n, ...) given outputs (n, ...)."""
        return dist.Normal(outputs, self.scale).to_event(outputs.dim() - 1)
