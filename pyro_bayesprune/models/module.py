"""Networks as Pyro models: `BayesianModule`."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.func import functional_call

from pyro_bayesprune.models.likelihoods import categorical
from pyro_bayesprune.models.priors import Prior

Model = Callable[..., Any]
Weights = dict[str, Tensor]
Masks = dict[str, Tensor]


@contextmanager
def _made_like(tensor: Tensor) -> Iterator[None]:
    """Distributions that are built inside take the dtype and device of ``tensor``."""
    previous = torch.get_default_dtype()
    torch.set_default_dtype(tensor.dtype)
    try:
        with tensor.device:
            yield
    finally:
        torch.set_default_dtype(previous)


class BayesianModule(nn.Module):
    """Any ``nn.Module`` as a Pyro model: a latent site for each parameter, one observed site.

    Called as ``model(x, y)``, it samples every parameter from its prior, runs the module on the
    sampled values and observes ``y`` in the site ``obs`` inside the plate ``data`` of size
    ``num_data``, so that a minibatch's log likelihood is scaled by num_data / batch size.

    Args:
        net: the module; its own parameters are the initial weights of a fit and are never changed.
        prior: function ``(name, shape) -> Distribution``, see `pyro_bayesprune.priors`.
        num_data: number N of training examples.
        likelihood: function from the module's outputs to the distribution of the targets.

    Raises:
        ValueError: if ``num_data`` is not a positive integer, ``net`` has no parameters or one
            without elements, or ``prior`` is no function.

    Example:
        >>> model = BayesianModule(nn.Linear(2, 3), lambda n, s: dist.Normal(0., 1.).expand(s)
        ...                        .to_event(len(s)), num_data=10)
        >>> sorted(pyro.poutine.trace(model).get_trace(torch.zeros(4, 2)).stochastic_nodes)
        ['bias', 'data', 'obs', 'weight']
    """

    def __init__(
        self,
        net: nn.Module,
        prior: Prior,
        num_data: int,
        likelihood: Callable[[Tensor], dist.TorchDistribution] = categorical,
    ) -> None:
        if not isinstance(num_data, int) or num_data < 1:
            raise ValueError(f"num_data must be a positive integer, got {num_data!r}")
        if not any(True for _ in net.parameters()):
            raise ValueError(f"{type(net).__name__} has no parameters to be Bayesian about")
        for name, parameter in net.named_parameters():
            if not parameter.numel():
                raise ValueError(f"{name!r} of shape {tuple(parameter.shape)} has no elements")
        if not callable(prior):
            raise ValueError(f"prior must be a function (name, shape), got {prior!r}")
        super().__init__()
        self.net, self.prior, self.likelihood = net, prior, likelihood
        self.num_data = num_data

    def priors(self) -> dict[str, dist.TorchDistribution]:
        """Return each parameter's prior; runs inside the model, so a prior may sample."""
        return {name: self._prior(name, p) for name, p in self.net.named_parameters()}

    def _prior(self, name: str, parameter: Tensor) -> dist.TorchDistribution:
        try:
            with _made_like(parameter):
                prior = self.prior(name, parameter.shape)
        except ValueError as error:  # a scale that is NaN, say: torch does not know whose
            raise ValueError(f"the prior of {name!r}: {error}") from error
        shape = getattr(prior, "event_shape", None)
        if shape is None:
            raise ValueError(f"the prior of {name!r} must be a distribution, got {prior!r}")
        if shape != parameter.shape:
            raise ValueError(
                f"the prior of {name!r} must have event shape {tuple(parameter.shape)}, "
                f"got {tuple(shape)} (is a to_event missing?)"
            )
        return prior

    def outputs(self, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Return the module's outputs for inputs ``x`` under ``weights`` by name."""
        return functional_call(self.net, dict(weights), (x,))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Run as a Pyro model: inputs (n, ...), targets (n, ...) or None to sample them."""
        weights = {name: pyro.sample(name, prior) for name, prior in self.priors().items()}
        targets = self.likelihood(self.outputs(weights, x))
        if y is not None and targets.shape() != y.shape:
            raise ValueError(
                f"targets must have the shape of the outputs' distribution, "
                f"{tuple(targets.shape())}, got {tuple(y.shape)}"
            )
        with pyro.plate("data", self.num_data, subsample=x):
            return pyro.sample("obs", targets, obs=y)


def network(model: Model) -> nn.Module | None:
    """Return the module that a model is, under any handlers; None where it is a function."""
    # A handled model is partial(..., handler, model). Pyro's own unwrap fails on copies of it.
    while isinstance(model, partial) and len(model.args) >= 2:
        model = model.args[1]
    return model if isinstance(model, nn.Module) else None


@contextmanager
def evaluation_mode(model: Model) -> Iterator[None]:
    """Put a module (BatchNorm, dropout) into evaluation mode, and back as it was."""
    module = network(model)
    modules = list(module.modules()) if module is not None else []
    training = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, flag in zip(modules, training, strict=True):
            module.training = flag
