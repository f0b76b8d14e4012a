"""A fit's network as a plain PyTorch module, without Pyro."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pyro_bayesprune.models.buffers import set_buffers
from pyro_bayesprune.models.copying import copied
from pyro_bayesprune.models.module import BayesianModule


class Fitted(Protocol):
    """A `Fit`, or a run that was read from disk."""

    @property
    def model(self) -> Any:  # noqa: ANN401  (a BayesianModule is checked for)
        """The Pyro model."""

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """A value for each latent site."""

    @property
    def masks(self) -> Mapping[str, Tensor]:
        """A bool tensor for each prunable site, False where a weight is pruned."""

    @property
    def buffers(self) -> Mapping[str, Tensor]:
        """The model's buffers by name."""


@torch.no_grad()
def bake(fit: Fitted) -> nn.Module:
    """Return a fit's network as a plain module that contains the pruned weights, without Pyro.

    Args:
        fit: a fit of a `BayesianModule`. Its module is not changed.

    Returns:
        A copy of the network in evaluation mode.

    Raises:
        ValueError: for a fit of another model, or weights, masks or buffers that do not fit it.
    """
    if not isinstance(fit.model, BayesianModule):
        raise ValueError(f"only a BayesianModule has a module to bake, got {type(fit.model)}")
    net = copied(fit.model.net)
    values = fit.model.constants() | dict(fit.weights)
    for name, parameter in net.named_parameters():
        shape = tuple(values[name].shape) if name in values else None
        if shape != tuple(parameter.shape):
            raise ValueError(
                f"the fit's weights must have {name!r} of shape {tuple(parameter.shape)}, "
                f"got {shape}"
            )
        parameter.copy_(values[name])
        if name in fit.masks:
            parameter.masked_fill_(~fit.masks[name].to(parameter.device), 0)
    buffers = {n.removeprefix("net."): b for n, b in fit.buffers.items() if n.startswith("net.")}
    set_buffers(net, buffers)
    return net.eval()
