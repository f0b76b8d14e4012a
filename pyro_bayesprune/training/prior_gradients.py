"""Closed-form gradients of log priors, at the cost of one pass over the weights."""

from collections.abc import Callable

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_bayesprune.models.priors import elementwise

EnergyGradient = Callable[[Tensor, Tensor, float], None]


def _parameters(distribution: dist.TorchDistribution, *names: str) -> list[float | Tensor] | None:
    """Return the parameters, expanded ones as numbers; None if one depends on another site."""
    values: list[float | Tensor] = []
    for name in names:
        value = getattr(distribution, name)
        if value.requires_grad:
            return None
        values.append(value.flatten()[0].item() if not any(value.stride()) else value)
    return values


def energy_gradient(distribution: dist.TorchDistribution) -> EnergyGradient | None:
    """Return a function that adds ``factor · ∂(-log p)/∂w`` to a gradient in place, or None.

    Autograd through a log density needs many passes over memory as large as the network; this
    needs one or two. It supports Normal, Laplace and Student t with fixed parameters.
    """
    base = elementwise(distribution)
    if type(base) not in (dist.Normal, dist.Laplace, dist.StudentT):
        return None
    df = ("df",) if type(base) is dist.StudentT else ()
    parameters = _parameters(base, "loc", "scale", *df)
    if parameters is None:
        return None
    loc, scale, *rest = parameters

    def add(grad: Tensor, weight: Tensor, factor: float) -> None:
        distance = weight if _is_zero(loc) else weight - loc
        if type(base) is dist.Normal:
            _add_scaled_(grad, distance, factor / scale**2)
        elif type(base) is dist.Laplace:
            _add_scaled_(grad, distance.sign(), factor / scale)
        else:
            (df,) = rest
            spread = torch.addcmul(torch.as_tensor(df * scale**2).to(weight), distance, distance)
            if isinstance(df, Tensor):
                grad.addcdiv_(distance * (df + 1), spread, value=factor)
            else:  # needs one pass less over a large network
                grad.addcdiv_(distance, spread, value=factor * (df + 1))

    return add


def _is_zero(value: float | Tensor) -> bool:
    return not isinstance(value, Tensor) and value == 0


def _add_scaled_(grad: Tensor, term: Tensor, factor: float | Tensor) -> None:
    if isinstance(factor, Tensor):
        grad.addcmul_(term, factor)
    else:
        grad.add_(term, alpha=factor)


def weight_decay(distribution: dist.TorchDistribution) -> float | None:
    """Return the precision 1/σ² of a zero-mean Normal of one fixed σ, None for any other prior.

    Its negative log density has the gradient w/σ², as an optimiser's coupled ``weight_decay``.
    """
    base = elementwise(distribution)
    parameters = _parameters(base, "loc", "scale") if type(base) is dist.Normal else None
    if parameters is None or isinstance(parameters[1], Tensor) or not _is_zero(parameters[0]):
        return None
    return 1 / parameters[1] ** 2
