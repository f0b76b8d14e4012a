"""Closed-form gradients of log priors, at the cost of one pass over the weights."""

from collections.abc import Callable

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_bayesprune.models.priors import elementwise

EnergyGradient = Callable[[Tensor, Tensor, float], None]


def _parameters(
    distribution: dist.TorchDistribution, *names: str, read: bool = True
) -> list[float | Tensor] | None:
    """Return the parameters, expanded ones as numbers; None if one depends on another site.

    Unless ``read`` is true, those on a device stay there, since the host would wait for it.
    """
    values: list[float | Tensor] = []
    for name in names:
        value = getattr(distribution, name)
        if value.requires_grad:
            return None
        is_read = not any(value.stride()) and (read or value.device.type == "cpu")
        values.append(value.flatten()[0].item() if is_read else value)
    return values


def energy_gradient(
    distribution: dist.TorchDistribution, *, read: bool = True
) -> EnergyGradient | None:
    """Return a function that adds ``factor · ∂(-log p)/∂w`` to a gradient in place, or None.

    Autograd through a log density needs many passes over memory as large as the network; this
    needs one or two. It supports Normal, Laplace and Student t with fixed parameters.

    Args:
        distribution: the prior of a site.
        read: whether parameters may be read from a device; false in a training step.
    """
    base = elementwise(distribution)
    if type(base) not in (dist.Normal, dist.Laplace, dist.StudentT):
        return None
    df = ("df",) if type(base) is dist.StudentT else ()
    parameters = _parameters(base, "loc", "scale", *df, read=read)
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
            spread = torch.addcmul(_like(df * scale**2, weight), distance, distance)
            if isinstance(df, Tensor):
                grad.addcdiv_(distance * (df + 1), spread, value=factor)
            else:  # needs one pass less over a large network
                grad.addcdiv_(distance, spread, value=factor * (df + 1))

    return add


def _like(value: float | Tensor, weight: Tensor) -> Tensor:
    if not isinstance(value, Tensor):
        value = torch.full((), value, device=weight.device)
    return value.to(weight)


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
