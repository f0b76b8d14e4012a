"""Which sites of a model may be pruned."""

from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from pyro_bayesprune.inference.layers import output_layers
from pyro_bayesprune.models.module import BayesianModule, Model, network
from pyro_bayesprune.models.sites import ModelSites
from pyro_bayesprune.models.uses import connection_weights
from pyro_bayesprune.pruning.registry import Scope

UNITS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def prunable_sites(
    model: Model,
    sites: ModelSites,
    patterns: tuple[str, ...] | None,
    x: Tensor,
    scope: Scope = "layer",
) -> list[str]:
    """Return the names of the sites to prune.

    Args:
        model: the Pyro model.
        sites: its sites.
        patterns: names or shell-style patterns; one that begins with ``!`` excludes. Without any
            that includes: `connection_weights` of a BayesianModule, real sites of more than one
            element of another model.
        x: inputs (n, ...).
        scope: with ``"unit"``, those that have units.

    Raises:
        ValueError: for a pattern that matches nothing, a site whose support or density at zero
            excludes a pruned weight, or, with scope ``"unit"``, one that has no units to prune; the
            message names it.
    """
    patterns = (patterns,) if isinstance(patterns, str) else tuple(patterns or ())
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern.removeprefix("!")) for name in sites.latent):
            raise ValueError(f"no site matches {pattern!r}; there are {sorted(sites.latent)}")
    include = [p for p in patterns if not p.startswith("!")]
    exclude = [p.removeprefix("!") for p in patterns if p.startswith("!")]
    if include:
        chosen = [n for n in sites.latent if any(fnmatchcase(n, p) for p in include)]
    else:
        chosen = _default_sites(model, sites, x, scope)
    chosen = [n for n in chosen if not any(fnmatchcase(n, p) for p in exclude)]
    for name in chosen:
        _check_zero(name, sites.latent[name])
    if scope == "unit" and (rest := sorted(set(chosen) - set(sites_with_units(model, x)))):
        raise ValueError(
            f"scope='unit' prunes the units of {sites_with_units(model, x)}, not {rest[0]!r}: that "
            f"is the output layer or no weight of a Linear or Conv layer"
        )
    return chosen


def _default_sites(model: Model, sites: ModelSites, x: Tensor, scope: Scope) -> list[str]:
    if scope == "unit":
        return sites_with_units(model, x)
    module = network(model)
    if isinstance(module, BayesianModule):
        weights = connection_weights(module, x)
        return [name for name in sites.latent if name in weights]
    real = {
        name: _is_real(site) and site["value"].numel() > 1 for name, site in sites.latent.items()
    }
    return [name for name, chosen in real.items() if chosen]


def sites_with_units(model: Model, x: Tensor) -> list[str]:
    """Return the weights of a lifted network's Linear and Conv layers but the output layers'.

    The units of an output layer are the network's outputs: no other such layer follows it. Of the
    others, the first dimension counts units.

    Raises:
        ValueError: for a model that is no `BayesianModule`.
    """
    module = network(model)
    if not isinstance(module, BayesianModule):
        raise ValueError("scope='unit' needs a BayesianModule: another model's sites have no units")
    layers = {n: m for n, m in module.net.named_modules() if isinstance(m, UNITS)}
    hidden = set(layers) - output_layers(module, x)
    names = (f"{name}.weight".lstrip(".") for name in layers if name in hidden)
    return [name for name in names if name in module.named_weights()]


def _is_real(site: dict) -> bool:
    constraint = site["fn"].support
    while isinstance(constraint, torch.distributions.constraints.independent):
        constraint = constraint.base_constraint
    return constraint is torch.distributions.constraints.real


def _check_zero(name: str, site: dict) -> None:
    zero = torch.zeros_like(site["value"])
    if not _is_real(site) or not torch.isfinite(site["fn"].log_prob(zero)).all():
        raise ValueError(
            f"the site {name!r} cannot be pruned: its prior {type(site['fn']).__name__} of support "
            f"{site['fn'].support} has no finite density at zero on the real line"
        )
