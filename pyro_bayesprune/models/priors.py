"""Priors over the parameters of a network.

A prior is a function ``(name, shape) -> Distribution``: it gets a parameter's name and shape and
returns a distribution whose *event* has that shape. It runs inside the Pyro model, so it may call
``pyro.sample`` itself (`layer_scale` does). The priors here are small frozen dataclasses, because
closures cannot be pickled.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import pyro
import pyro.distributions as dist
import torch

from pyro_bayesprune._utils.checks import positive

Prior = Callable[[str, torch.Size], dist.TorchDistribution]
EVIDENCE = "by_evidence"  # marks sites of scales that are set by evidence, not by gradients


@dataclass(frozen=True)
class normal:  # noqa: N801  (used as a function: priors.normal(0.3))
    """Zero-mean Normal prior, the paper's p(w) = N(0, σ²).

    Args:
        scale: standard deviation σ, in the units of the weights.

    Example:
        >>> normal(0.3)("fc1.weight", torch.Size([4, 2])).event_shape
        torch.Size([4, 2])
    """

    scale: float

    def __post_init__(self) -> None:
        positive("scale of a normal prior", self.scale)

    def __call__(self, name: str, shape: torch.Size) -> dist.TorchDistribution:
        """Return the prior of the parameter ``name``, with event shape ``shape``."""
        return dist.Normal(0.0, self.scale).expand(shape).to_event(len(shape))


@dataclass(frozen=True)
class fan_in_normal:  # noqa: N801
    """Zero-mean Normal prior of standard deviation ``gain / sqrt(fan_in)``.

    The scale at which a wide layer's outputs stay of order one (Neal, 1996). Parameters with fewer
    than two dimensions (biases) have no fan-in; theirs is ``gain``.
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        positive("gain of a fan-in prior", self.gain)

    def __call__(self, name: str, shape: torch.Size) -> dist.TorchDistribution:
        """Return the prior of the parameter ``name``, with event shape ``shape``."""
        fan_in = math.prod(shape[1:]) if len(shape) > 1 else 1
        return normal(self.gain / math.sqrt(fan_in))(name, shape)


@dataclass(frozen=True)
class laplace:  # noqa: N801
    """Zero-mean Laplace prior, ``p(w) = exp(-|w| / b) / 2b``."""

    scale: float

    def __post_init__(self) -> None:
        positive("scale of a laplace prior", self.scale)

    def __call__(self, name: str, shape: torch.Size) -> dist.TorchDistribution:
        """Return the prior of the parameter ``name``, with event shape ``shape``."""
        return dist.Laplace(0.0, self.scale).expand(shape).to_event(len(shape))


@dataclass(frozen=True)
class student_t:  # noqa: N801
    """Zero-mean Student t prior: heavy tails leave large weights alone."""

    df: float
    scale: float

    def __post_init__(self) -> None:
        positive("df of a student_t prior", self.df)
        positive("scale of a student_t prior", self.scale)

    def __call__(self, name: str, shape: torch.Size) -> dist.TorchDistribution:
        """Return the prior of the parameter ``name``, with event shape ``shape``."""
        return dist.StudentT(self.df, 0.0, self.scale).expand(shape).to_event(len(shape))


@dataclass(frozen=True)
class layer_scale:  # noqa: N801
    """The paper's shared layer-wise prior p(W | θ): one learnt scale per weight matrix.

    For a matrix ``W`` of n weights the model samples a scale in a site ``<name>_scale``,

        σ ~ LogNormal(ln scale, 1 / sqrt(strength · n)),    w_i ~ N(0, σ²).

    Why the hyperprior narrows with n: n weights pull the scale with n times the force of one, so
    under a hyperprior of fixed width a joint MAP shrinks σ and W together until nothing is left.
    With ln σ = t, the joint density per weight is  -t - v / 2σ² - strength · (t - ln scale)² / 2,
    v the mean squared weight. At v = 0 its mode is t = ln scale - 1 / strength: σ cannot fall below
    ``scale · exp(-1 / strength)``, and grows where the data ask for larger weights. Training counts
    surviving weights only, so that pruned zeros do not shrink σ; a pruning decision compares both
    networks at the same σ. Parameters with fewer than two dimensions get ``normal(scale)``.

    Args:
        scale: median of σ, in the units of the weights.
        strength: weight of the hyperprior relative to all n weights; larger holds σ closer.
    """

    scale: float = 0.3
    strength: float = 4.0

    def __post_init__(self) -> None:
        positive("scale of a layer_scale prior", self.scale)
        positive("strength of a layer_scale prior", self.strength)

    def __call__(self, name: str, shape: torch.Size) -> dist.TorchDistribution:
        """Return the prior of the parameter ``name``; samples the site ``<name>_scale``."""
        if len(shape) < 2:
            return normal(self.scale)(name, shape)
        width = 1 / math.sqrt(self.strength * math.prod(shape))
        scale = pyro.sample(f"{name}_scale", dist.LogNormal(math.log(self.scale), width))
        return dist.Normal(0.0, scale).expand(shape).to_event(len(shape))


@dataclass(frozen=True)
class evidence_normal:  # noqa: N801
    """A zero-mean Normal whose scale, one for each parameter, is learnt by evidence.

    For a parameter ``W`` the model samples a scale in a site ``<name>_scale``,

        σ ~ LogNormal(ln scale, 1),    w_i ~ N(0, σ²),

    which `train` does not follow the gradient for (a joint MAP over σ and W collapses): at the end
    of each epoch it moves to where Laplace's evidence is largest (`evidence.evidence_scales`,
    MacKay, 1992), its hyperprior left out. Decisions compare both networks at the same σ.

    Args:
        scale: where σ starts, in the units of the weights.
    """

    scale: float = 0.3

    def __post_init__(self) -> None:
        positive("scale of an evidence_normal prior", self.scale)

    def __call__(self, name: str, shape: torch.Size) -> dist.TorchDistribution:
        """Return the prior of the parameter ``name``; samples the site ``<name>_scale``."""
        hyperprior = dist.LogNormal(math.log(self.scale), 1.0)
        scale = pyro.sample(f"{name}_scale", hyperprior, infer={EVIDENCE: True})
        return dist.Normal(0.0, scale.detach()).expand(shape).to_event(len(shape))


@dataclass(frozen=True)
class by_site:  # noqa: N801
    """A prior for each group of parameters; the first matching pattern decides.

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
    """Return the distribution under any ``to_event``: its log density has an entry per element."""
    while isinstance(distribution, torch.distributions.Independent):
        distribution = distribution.base_dist
    return distribution
