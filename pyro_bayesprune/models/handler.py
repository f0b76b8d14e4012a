"""Pruning as an effect handler: `pruned`."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_bayesprune.models.module import Model
from pyro_bayesprune.models.priors import elementwise

PrunedPrior = Literal["density", "dropped"]


class MaskedPrior(dist.TorchDistribution):
    """The distribution ``base`` of a value, evaluated at ``value * mask``."""

    arg_constraints: dict[str, Any] = {}

    def __init__(self, base: dist.TorchDistribution, mask: Tensor, dropped: bool) -> None:
        self.base, self.mask, self.dropped = base, mask, dropped
        self.has_rsample = base.has_rsample
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    def support(self) -> Any:  # noqa: ANN401  (torch's constraints are untyped)
        """The base's support."""
        return self.base.support

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Sample from the base. The handler masks the value."""
        return self.base.sample(sample_shape)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Sample from the base with gradients. The handler masks the value."""
        return self.base.rsample(sample_shape)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> "MaskedPrior":  # noqa: ANN401
        """Return the distribution with another batch shape."""
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
    name: str, prior: dist.TorchDistribution, mask: Tensor, pruned_prior: str
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
    def __init__(self, masks: Mapping[str, Tensor], pruned_prior: str) -> None:
        super().__init__()
        self.masks, self.pruned_prior = masks, pruned_prior

    def __enter__(self) -> "_PruneMessenger":
        self.unused = set(self.masks)
        return super().__enter__()

    def __exit__(self, *exc: Any) -> None:  # noqa: ANN401
        super().__exit__(*exc)
        if exc[0] is None and self.unused:
            raise ValueError(f"masks for sites that the model does not have: {sorted(self.unused)}")

    def _pyro_sample(self, msg: Any) -> None:  # noqa: ANN401
        if msg["name"] in self.masks:
            mask = self.masks[msg["name"]]
            prior = masked_prior(msg["name"], msg["fn"], mask, self.pruned_prior)
            msg["fn"] = msg["fn"] if self.pruned_prior == "sampled" else prior
            self.unused.discard(msg["name"])

    def _pyro_post_sample(self, msg: Any) -> None:  # noqa: ANN401
        # Post-processing starts at the outermost handler, so an enclosing trace has already
        # recorded the unmasked value. For this reason `MaskedPrior` masks it once more.
        if msg["name"] in self.masks:
            msg["value"] = msg["value"] * self.masks[msg["name"]]


def check_pruned_prior(pruned_prior: str) -> None:
    """Raise a ValueError unless ``pruned_prior`` is 'density' or 'dropped'."""
    if pruned_prior not in get_args(PrunedPrior):
        raise ValueError(f"pruned_prior must be 'density' or 'dropped', got {pruned_prior!r}")


def pruned(
    model: Model,
    masks: Mapping[str, Tensor],
    pruned_prior: PrunedPrior | Literal["sampled"] = "density",
) -> Model:
    """Return ``model`` with the values of the masked latent sites multiplied by their masks.

    The model uses ``value * mask``, and the prior is evaluated at the masked value. The density is
    therefore constant in the pruned elements of the unmasked value. That is right for densities at
    a point and for MAP training, but a sampler such as `pyro.infer.NUTS`, which moves the unmasked
    value, would let these elements drift without bound. For samplers use ``"sampled"``:

    - ``MCMC(NUTS(pruned(model, masks, "sampled")), ...)`` draws the posterior of the surviving
      elements. Pruned elements of a draw follow their prior and have no meaning: multiply the
      draws by the masks.
    - `inference.samplers.posterior_draws` with ``method="nuts"`` samples the surviving elements
      alone, which is faster, and has zeros in place of the pruned ones.

    Args:
        model: any Pyro model.
        masks: bool tensors by site name, of the sites' shapes; False prunes a weight.
        pruned_prior: with ``"density"`` a pruned weight has the prior's density at zero; with
            ``"dropped"`` it contributes nothing (only for priors that factorise). With
            ``"sampled"`` the prior is evaluated at the unmasked value, so that a pruned element is
            drawn from its prior and the survivors have their marginal prior; not for densities.

    Raises:
        ValueError: when the model runs, for a mask of a wrong shape or dtype, a mask for an unknown
            site, or ``"dropped"`` with a prior that does not factorise.
    """
    if pruned_prior != "sampled":
        check_pruned_prior(pruned_prior)
    return _PruneMessenger(masks, pruned_prior)(model)
