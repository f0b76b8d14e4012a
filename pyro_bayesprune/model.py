"""Networks as Pyro models (`BayesianModule`) and pruning as an effect handler (`pruned`)."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.func import functional_call

from pyro_bayesprune.priors import Prior, elementwise, positive

Model = Callable[..., Any]
Weights = dict[str, Tensor]
Masks = dict[str, Tensor]
PrunedPrior = Literal["density", "dropped"]


def categorical(outputs: Tensor) -> dist.TorchDistribution:
    """Likelihood of class labels (n,) given logits (n, classes)."""
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


class MaskedPrior(dist.TorchDistribution):
    """The distribution ``base`` of a value of which only ``value * mask`` is used."""

    arg_constraints: dict[str, Any] = {}

    def __init__(self, base: dist.TorchDistribution, mask: Tensor, dropped: bool) -> None:
        self.base, self.mask, self.dropped = base, mask, dropped
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:
        """Whether the base can be sampled with gradients."""
        return self.base.has_rsample

    @property
    def support(self) -> Any:  # noqa: ANN401  (torch's constraints are untyped)
        """The base's support."""
        return self.base.support

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Sample from the base; the handler masks the value."""
        return self.base.sample(sample_shape)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Sample from the base with gradients; the handler masks the value."""
        return self.base.rsample(sample_shape)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> "MaskedPrior":  # noqa: ANN401
        """Return the same with another batch shape."""
        base = self.base.expand(batch_shape)
        return MaskedPrior(base, self.mask.expand(base.shape()), self.dropped)

    def elementwise_log_prob(self, value: Tensor) -> Tensor:
        """Return the log density of each element at ``value * mask``."""
        log_prob = elementwise(self.base).log_prob(value * self.mask)
        return log_prob * self.mask if self.dropped else log_prob

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density (batch shape) at ``value * mask``."""
        if not self.dropped:
            return self.base.log_prob(value * self.mask)
        return self.elementwise_log_prob(value).reshape(*self.batch_shape, -1).sum(-1)


def masked_prior(
    name: str, prior: dist.TorchDistribution, mask: Tensor, pruned_prior: PrunedPrior
) -> dist.TorchDistribution:
    """Return the prior of the site ``name`` under a mask; see `pruned`."""
    if mask.dtype != torch.bool or mask.shape != prior.shape():
        raise ValueError(
            f"the mask of {name!r} must be a bool tensor of shape {tuple(prior.shape())}, "
            f"got {mask.dtype} of shape {tuple(mask.shape)}"
        )
    if pruned_prior == "dropped" and elementwise(prior).event_shape:
        raise ValueError(
            f"pruned_prior='dropped' needs a prior that factorises over the elements of "
            f"{name!r}, got {type(elementwise(prior)).__name__}"
        )
    return MaskedPrior(prior, mask, pruned_prior == "dropped")


class _PruneMessenger(Messenger):
    def __init__(self, masks: Mapping[str, Tensor], pruned_prior: PrunedPrior) -> None:
        super().__init__()
        self.masks, self.pruned_prior = masks, pruned_prior

    def __enter__(self) -> "_PruneMessenger":
        self.unseen = set(self.masks)
        return super().__enter__()

    def __exit__(self, *exc: Any) -> None:  # noqa: ANN401
        super().__exit__(*exc)
        if exc[0] is None and self.unseen:
            raise ValueError(f"masks for sites that the model does not have: {sorted(self.unseen)}")

    def _pyro_sample(self, msg: Any) -> None:  # noqa: ANN401
        if msg["name"] in self.masks:
            mask = self.masks[msg["name"]]
            msg["fn"] = masked_prior(msg["name"], msg["fn"], mask, self.pruned_prior)
            self.unseen.discard(msg["name"])

    def _pyro_post_sample(self, msg: Any) -> None:  # noqa: ANN401
        # Post-processing runs outermost first: an enclosing trace has already recorded the value
        # as it was. That is why the density is masked in fn and not only the value here.
        if msg["name"] in self.masks:
            msg["value"] = msg["value"] * self.masks[msg["name"]]


def check_pruned_prior(pruned_prior: str) -> None:
    """Raise a ValueError unless ``pruned_prior`` is 'density' or 'dropped'."""
    if pruned_prior not in ("density", "dropped"):
        raise ValueError(f"pruned_prior must be 'density' or 'dropped', got {pruned_prior!r}")


def pruned(
    model: Model, masks: Mapping[str, Tensor], pruned_prior: PrunedPrior = "density"
) -> Model:
    """Return ``model`` with the values of the masked latent sites multiplied by their masks.

    The model goes on with ``value * mask``, and the prior is evaluated at the masked value.

    Args:
        model: any Pyro model.
        masks: bool tensors named by site, of the sites' shapes; True keeps a weight.
        pruned_prior: ``"density"``: a pruned weight has the prior's density at zero;
            ``"dropped"``: it contributes nothing (factorising priors only).

    Raises:
        ValueError: when the model runs, for a mask of a wrong shape or dtype, a mask for an unknown
            site, or ``"dropped"`` with a prior that does not factorise.
    """
    check_pruned_prior(pruned_prior)
    return _PruneMessenger(masks, pruned_prior)(model)


def in_data_plate(site: Mapping[str, Any]) -> bool:
    """Say whether a site of a trace stands inside the plate ``data``."""
    return any(frame.name == "data" for frame in site["cond_indep_stack"])


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
