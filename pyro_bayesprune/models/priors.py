"""Priors over the parameters of a network.

A prior is a function ``(name, shape) -> Distribution``. It takes a parameter's name and shape and
returns a distribution whose *event* has that shape. It runs inside the Pyro model, so it may call
``pyro.sample`` itself, as `layer_scale` does. It must return the same distribution whenever it is
called with the same arguments, because a training may call it only once. The priors here are
frozen dataclasses, because closures cannot be pickled.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_bayesprune._utils.checks import positive

Prior = Callable[[str, torch.Size], dist.TorchDistribution]
REFERENCE = 50_000  # number of examples for which `normal_per_datum` has the scale σ
EVIDENCE = "by_evidence"  # marks the sites of scales that the evidence determines, not gradients


def _number(value: float) -> Tensor:
    """Return a number as a tensor. ``torch.tensor`` would make the host wait for a device."""
    return torch.full((), float(value))


class _Independent:
    """A prior of independent weights, whose fields must be positive numbers."""

    def __post_init__(self) -> None:
        for field, value in vars(self).items():
            positive(f"{field} of a {type(self).__name__} prior", value)

    def __call__(self, name: str, shape: torch.Size) -> dist.TorchDistribution:
        """Return the prior of the parameter ``name``, with event shape ``shape``."""
        return self._of_one_weight(name, shape).expand(shape).to_event(len(shape))

    def _of_one_weight(self, name: str, shape: torch.Size) -> dist.TorchDistribution:
        raise NotImplementedError


@dataclass(frozen=True)
class normal(_Independent):  # noqa: N801  (used as a function: priors.normal(0.3))
    """Zero-mean Normal prior, the paper's p(w) = N(0, σ²).

    Args:
        scale: standard deviation σ, in the units of the weights.

    Example:
        >>> normal(0.3)("fc1.weight", torch.Size([4, 2])).event_shape
        torch.Size([4, 2])
    """

    scale: float

    def _of_one_weight(self, name: str, shape: torch.Size) -> dist.TorchDistribution:
        return dist.Normal(_number(0.0), _number(self.scale))


@dataclass(frozen=True)
class normal_per_datum(_Independent):  # noqa: N801
    """Zero-mean Normal prior that is equally strong for each example, whatever their number.

    A prior with a fixed standard deviation becomes weaker for each of N examples as N grows. This
    one has the standard deviation σ = scale · sqrt(50,000 / N). Its part of the training loss
    -(log joint)/N is then w² / (2 · 50,000 · scale²): the weight decay 1/(50,000 · scale²).

    Args:
        num_data: number N of training examples.
        scale: the standard deviation σ for 50,000 examples, in the units of the weights.

    Example:
        >>> normal_per_datum(500, scale=0.1)("fc1.bias", torch.Size([3])).base_dist.scale
        tensor([1., 1., 1.])
    """

    num_data: int
    scale: float = 0.3

    def _of_one_weight(self, name: str, shape: torch.Size) -> dist.TorchDistribution:
        return dist.Normal(_number(0.0), _number(self.scale * math.sqrt(REFERENCE / self.num_data)))


@dataclass(frozen=True)
class fan_in_normal(_Independent):  # noqa: N801
    """Zero-mean Normal prior of standard deviation ``gain / sqrt(fan_in)``.

    With this scale, the outputs of a wide layer stay of order one (Neal, 1996). Parameters with
    fewer than two dimensions (biases) have no fan-in; their standard deviation is ``gain``.
    """

    gain: float = 1.0

    def _of_one_weight(self, name: str, shape: torch.Size) -> dist.TorchDistribution:
        fan_in = math.prod(shape[1:]) if len(shape) > 1 else 1
        return dist.Normal(_number(0.0), _number(self.gain / math.sqrt(fan_in)))


@dataclass(frozen=True)
class laplace(_Independent):  # noqa: N801
    """Zero-mean Laplace prior, ``p(w) = exp(-|w| / b) / 2b`` with the scale b."""

    scale: float

    def _of_one_weight(self, name: str, shape: torch.Size) -> dist.TorchDistribution:
        return dist.Laplace(_number(0.0), _number(self.scale))


@dataclass(frozen=True)
class student_t(_Independent):  # noqa: N801
    """Zero-mean Student t prior. Its heavy tails shrink large weights only a little."""

    df: float
    scale: float

    def _of_one_weight(self, name: str, shape: torch.Size) -> dist.TorchDistribution:
        return dist.StudentT(_number(self.df), _number(0.0), _number(self.scale))


@dataclass(frozen=True)
class layer_scale(_Independent):  # noqa: N801
    """The paper's shared layer-wise prior p(W | θ): one learnt scale per weight matrix.

    For a matrix ``W`` of n weights the model samples a scale in a site ``<name>_scale``,

        σ ~ LogNormal(ln scale, 1 / sqrt(strength · n)),    w_i ~ N(0, σ²).

    The hyperprior becomes narrower with n for this reason: n weights act on the scale n times as
    strongly as one weight. Under a hyperprior of fixed width, joint MAP estimation would shrink σ
    and W together to zero. With ln σ = t, the log joint density per weight is
    -t - v / 2σ² - strength · (t - ln scale)² / 2, where v is the mean squared weight. At v = 0 its
    mode is t = ln scale - 1 / strength: σ cannot fall below ``scale · exp(-1 / strength)``, and it
    grows where the data require larger weights. Training counts only the surviving weights, so that
    pruned weights do not shrink σ. A pruning decision compares both networks at the same σ.
    Parameters with fewer than two dimensions get the prior ``normal(scale)``.

    Args:
        scale: median of σ, in the units of the weights.
        strength: weight of the hyperprior relative to all n weights. A larger value keeps σ closer
            to ``scale``.
    """

    scale: float = 0.3
    strength: float = 4.0

    def _of_one_weight(self, name: str, shape: torch.Size) -> dist.TorchDistribution:
        if len(shape) < 2:
            return dist.Normal(_number(0.0), _number(self.scale))
        width = 1 / math.sqrt(self.strength * math.prod(shape))
        hyperprior = dist.LogNormal(_number(math.log(self.scale)), _number(width))
        scale = pyro.sample(f"{name}_scale", hyperprior)
        return dist.Normal(torch.zeros_like(scale), scale)


@dataclass(frozen=True)
class evidence_normal(_Independent):  # noqa: N801
    """A zero-mean Normal prior with one scale for each parameter, learnt from the evidence.

    For a parameter ``W`` the model samples a scale in a site ``<name>_scale``,

        σ ~ LogNormal(ln scale, 1),    w_i ~ N(0, σ²).

    `train` does not follow the gradient of σ, because joint MAP estimation of σ and W collapses to
    zero. Instead, at the end of each epoch, it moves σ towards the maximum of Laplace's evidence
    (`evidence.evidence_scales`, MacKay, 1992), which ignores the hyperprior. Decisions compare both
    networks at the same σ.

    Args:
        scale: the initial value of σ, in the units of the weights.
    """

    scale: float = 0.3

    def _of_one_weight(self, name: str, shape: torch.Size) -> dist.TorchDistribution:
        hyperprior = dist.LogNormal(_number(math.log(self.scale)), _number(1.0))
        scale = pyro.sample(f"{name}_scale", hyperprior, infer={EVIDENCE: True})
        return dist.Normal(torch.zeros_like(scale), scale.detach())


@dataclass(frozen=True)
class by_site:  # noqa: N801
    """A prior for each group of parameters, selected by the first pattern that matches.

    Args:
        patterns: maps shell-style patterns of parameter names to priors.

    Raises:
        ValueError: when called with a name that no pattern matches.

    Example:
        >>> prior = by_site({"*.bias": normal(1.0), "*": laplace(0.1)})
        >>> prior("fc1.bias", torch.Size([3])).base_dist.scale.max().item()
        1.0
    """

    patterns: Mapping[str, Prior]

    def __call__(self, name: str, shape: torch.Size) -> dist.TorchDistribution:
        """Return the prior of the first pattern that matches ``name``."""
        for pattern, prior in self.patterns.items():
            if fnmatchcase(name, pattern):
                return prior(name, shape)
        raise ValueError(f"by_site has no pattern for {name!r}, only {list(self.patterns)}")


def elementwise(distribution: dist.TorchDistribution) -> dist.TorchDistribution:
    """Return the base distribution without ``to_event``, which has a log density per element."""
    while isinstance(distribution, torch.distributions.Independent):
        distribution = distribution.base_dist
    return distribution
