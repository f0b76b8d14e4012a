"""Networks as Pyro models: `BayesianModule`."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from threading import get_ident
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.hooks import RemovableHandle

from pyro_bayesprune._utils.checks import positive_integer
from pyro_bayesprune._utils.process import full_precision, one_at_a_time, switched
from pyro_bayesprune._utils.random import forked_rng
from pyro_bayesprune.data.inputs import Inputs, tensors
from pyro_bayesprune.models.adapter import Forward, network_outputs
from pyro_bayesprune.models.likelihoods import Likelihood, at_values, categorical, check_shape
from pyro_bayesprune.models.priors import Prior, elementwise

Model = Callable[..., Any]
Weights = dict[str, Tensor]
Masks = dict[str, Tensor]


@contextmanager
def _made_like(tensor: Tensor) -> Iterator[None]:
    """Give distributions that are created inside the dtype and device of ``tensor``."""
    dist.enable_validation(dist.is_validation_enabled())  # torch.compile switches it off in torch
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

    A parameter with ``requires_grad=False`` is a constant, and no site. A parameter whose prior is
    a Delta has the Delta's value. Both are outside the posterior and are not pruned.

    Args:
        net: the module. Its parameters are the initial weights of a fit and are never changed.
        prior: function ``(name, shape) -> Distribution``, see `pyro_bayesprune.priors`.
        num_data: number N of training examples.
        likelihood: function from the module's outputs to the distribution of the targets, see
            `pyro_bayesprune.models.likelihoods`. It may sample, as a prior may.
        forward: function ``(net, x) -> outputs`` that calls the module. By default it is called as
            ``net(x)``, of a tuple as ``net(*x)`` and of a dictionary as ``net(**x)``. The result
            must be one tensor, or have one as its ``logits``.

    Raises:
        ValueError: if ``num_data`` is not a positive integer, ``net`` has no parameters or one
            without elements, or ``prior`` is no function.

    Example:
        >>> model = BayesianModule(nn.Linear(2, 3), lambda n, s: dist.Normal(0., 1.).expand(s)
        ...                        .to_event(len(s)), num_data=10)
        >>> sorted(pyro.poutine.trace(model).get_trace(torch.zeros(4, 2)).stochastic_nodes)
        ['bias', 'data', 'obs', 'weight']
    """

    autocast = False  # whether outputs are computed in bfloat16 in training mode

    def __init__(
        self,
        net: nn.Module,
        prior: Prior,
        num_data: int,
        likelihood: Likelihood = categorical,
        forward: Forward | None = None,
    ) -> None:
        positive_integer("num_data", num_data)
        if not isinstance(net, nn.Module):
            raise ValueError(f"net must be an nn.Module, got {type(net).__name__}")
        if not any(p.requires_grad for p in net.parameters()):
            raise ValueError(
                f"{type(net).__name__} has no parameters that require a gradient; the others are "
                f"constants of the model"
            )
        for name, parameter in net.named_parameters():
            if not parameter.numel():
                raise ValueError(f"{name!r} of shape {tuple(parameter.shape)} has no elements")
        if not (forward is None or callable(forward)):
            raise ValueError(f"forward must be a function (net, x) -> outputs, got {forward!r}")
        _check_prior(prior)
        super().__init__()
        self.net, self.prior, self.likelihood = net, prior, likelihood
        self.adapter = forward
        self.num_data = num_data
        self.fitted = False  # true for a fit's copy, which warns when it is called as a network
        self._fixed: Weights | None = None

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.net.parameters()).device

    def fixed(self) -> Weights:
        """Return the values of parameters whose prior is a Delta, by name."""
        if self._fixed is None:
            with one_at_a_time(), forked_rng(self.device), poutine.block():
                priors = {n: self._prior(n, p) for n, p in self._trainable().items()}
            deltas = {n: elementwise(prior) for n, prior in priors.items()}
            self._fixed = {n: d.v for n, d in deltas.items() if isinstance(d, dist.Delta)}
        return self._fixed

    def constants(self) -> Weights:
        """Return what training does not change: frozen parameters and those of `fixed`, by name."""
        frozen = {n: p.detach() for n, p in self._parameters_by_name() if not p.requires_grad}
        return frozen | self.fixed()

    def named_weights(self) -> dict[str, nn.Parameter]:
        """Return the parameters that are sampled, by name: trainable, without a Delta prior."""
        return {n: p for n, p in self._trainable().items() if n not in self.fixed()}

    def _trainable(self) -> dict[str, nn.Parameter]:
        return {n: p for n, p in self._parameters_by_name() if p.requires_grad}

    def _parameters_by_name(self) -> list[tuple[str, nn.Parameter]]:
        with one_at_a_time():  # a functional call in another thread replaces them for its duration
            return list(self.net.named_parameters())

    def priors(self) -> dict[str, dist.TorchDistribution]:
        """Return each parameter's prior. A prior may sample its hyperparameters here."""
        return {name: self._prior(name, p) for name, p in self.named_weights().items()}

    def priors_at(self, weights: Mapping[str, Tensor]) -> dict[str, dist.TorchDistribution]:
        """Return each parameter's prior. A prior that samples a scale gets it from ``weights``."""
        with one_at_a_time():
            return poutine.condition(self.priors, data=dict(weights))()

    def sample_weights(self) -> Weights:
        """Sample each parameter from its prior, in a Pyro site of its name."""
        return {name: pyro.sample(name, prior) for name, prior in self.priors().items()}

    def hyper_sites(self) -> set[str]:
        """Return the names of the sites that the priors sample, such as scales."""
        with one_at_a_time(), forked_rng(self.device), poutine.block():
            return set(poutine.trace(self.priors).get_trace().nodes) - {"_INPUT", "_RETURN"}

    def likelihood_at(self, weights: Mapping[str, Tensor]) -> Likelihood:
        """Return the likelihood, with what it samples (a learnt noise) taken from ``weights``."""
        return at_values(self.likelihood, weights)

    def _prior(self, name: str, parameter: Tensor) -> dist.TorchDistribution:
        try:
            with _made_like(parameter):
                prior = self.prior(name, parameter.shape)
        except ValueError as error:  # torch's message, on a NaN scale for example, has no name
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

    def outputs(self, weights: Mapping[str, Tensor], x: Inputs) -> Tensor:
        """Return the module's outputs for inputs ``x`` under ``weights`` by name."""
        device = tensors(x)[0].device
        fixed = {name: value.to(device) for name, value in self.fixed().items()}
        if not (self.autocast and self.training):
            return network_outputs(self.net, fixed | dict(weights), x, self.adapter)
        with torch.autocast(device.type, torch.bfloat16):
            outputs = network_outputs(self.net, fixed | dict(weights), x, self.adapter)
        return outputs.to(next(self.net.parameters()).dtype)

    def forward(self, x: Inputs, y: Tensor | None = None) -> Tensor:
        """Run as a Pyro model: inputs (n, ...), targets (n, ...) or None to sample them."""
        if self.fitted and not am_i_wrapped():
            warnings.warn(
                "a fit's model samples its weights from the prior when it is called: use the fit's "
                "module (a plain network), predict or predict_proba",
                UserWarning,
                stacklevel=2,
            )
        targets = self.likelihood(self.outputs(self.sample_weights(), x))
        if y is not None:
            check_shape(targets, y)
        with pyro.plate("data", self.num_data, subsample=tensors(x)[0]):
            return pyro.sample("obs", targets, obs=y)


def network(model: Model) -> nn.Module | None:
    """Return the module inside a model's handlers, or None if the model is a function."""
    # A handled model is partial(..., handler, model). Pyro's own unwrap fails on copies of it.
    while isinstance(model, partial) and len(model.args) >= 2:
        model = model.args[1]
    return model if isinstance(model, nn.Module) else None


def submodules(model: Model) -> list[tuple[str, nn.Module]]:
    """Return a model's module and its submodules with their names; none for a function."""
    module = network(model)
    return [] if module is None else list(module.named_modules())


@contextmanager
def evaluation_mode(model: Model) -> Iterator[None]:
    """Put the modules of a model (BatchNorm, dropout) into evaluation mode, then restore the mode.

    Everything inside is computed in full precision.
    The modules that a function calls are unknown beforehand. Each is put into evaluation mode when
    it runs.
    """
    changed: list[nn.Module] = []
    settings, cudnn = ExitStack(), torch.backends.cudnn

    def evaluate(part: nn.Module) -> None:
        if part.training:
            changed.append(part)
            part.training = False
        if isinstance(part, nn.RNNBase) and cudnn.enabled:
            # cuDNN computes gradients of recurrent layers in training mode only.
            settings.enter_context(switched([(cudnn, "enabled", False)]))

    # Modes, and Pyro's handlers that run inside, are global state of the process.
    with (
        one_at_a_time(),
        full_precision(),
        settings,
        on_modules_that_run(evaluate) if network(model) is None else nullcontext(),
    ):
        try:
            for _, part in submodules(model):
                evaluate(part)
            yield
        finally:
            for part in changed:
                part.training = True


def on_modules_that_run(action: Callable[[nn.Module], None]) -> RemovableHandle:
    """Call a function with each module that runs in this thread, until the handle is removed."""
    thread = get_ident()

    def hook(module: nn.Module, args: object) -> None:
        if get_ident() == thread:
            action(module)

    return register_module_forward_pre_hook(hook)


def training_mode(model: Model) -> None:
    """Put a module into training mode, except submodules that the user put into evaluation mode.

    Users freeze a BatchNorm by putting it into evaluation mode inside a network in training mode.
    If the whole network is in evaluation mode, all of it is put into training mode.
    """
    module = network(model)
    root = module.net if isinstance(module, BayesianModule) else module
    if module is not None and root is not None:
        module.training = True
        if not root.training:
            root.train()


def _check_prior(prior: object) -> None:
    if isinstance(prior, torch.distributions.Distribution):
        hint = ": use lambda name, shape: ...expand(shape).to_event(len(shape))"
    elif isinstance(prior, type):
        hint = ": call it first, as in priors.normal(0.3)"
    elif callable(prior):
        return
    else:
        hint = ""
    message = f"prior must be a function (name, shape) -> Distribution, got {prior!r}"
    raise ValueError(message + hint)
