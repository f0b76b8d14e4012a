"""Which sites of a model may be pruned."""

from collections.abc import Iterable
from fnmatch import fnmatchcase

import torch
from torch import nn

from pyro_bayesprune.data.inputs import Inputs
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
    x: Inputs,
    scope: Scope = "layer",
) -> list[str]:
    """Return the names of the sites to prune.

    Args:
        model: the Pyro model.
        sites: its sites.
        patterns: names or shell-style patterns; one that begins with ``!`` excludes. If none
            includes, the default is `connection_weights` of a BayesianModule, and the real sites
            of more than one element of another model.
        x: inputs (n, ...).
        scope: ``"unit"`` selects the weights of layers with units, see `sites_with_units`.

    Raises:
        ValueError: if a pattern matches no site, if the prior of a site has no density at zero, or
            if a site has no units and the scope is ``"unit"``.
    """
    patterns = (patterns,) if isinstance(patterns, str) else tuple(patterns or ())
    for pattern in patterns:
        if not _matching(sites.latent, [pattern.removeprefix("!")]):
            raise ValueError(f"no site matches {pattern!r}; there are {sorted(sites.latent)}")
    include = [p for p in patterns if not p.startswith("!")]
    excluded = _matching(sites.latent, [p[1:] for p in patterns if p.startswith("!")])
    default = [] if include else _default_sites(model, sites, x, scope)
    chosen = [n for n in default or _matching(sites.latent, include) if n not in excluded]
    for name in chosen:
        _check_zero(name, sites.latent[name])
    if scope == "unit" and (rest := sorted(set(chosen) - set(sites_with_units(model, x)))):
        raise ValueError(
            f"scope='unit' prunes the units of {sites_with_units(model, x)}, not {rest[0]!r}: that "
            f"is the output layer or no weight of a Linear or Conv layer"
        )
    return chosen


def _matching(names: Iterable[str], patterns: list[str]) -> list[str]:
    return [name for name in names if any(fnmatchcase(name, p) for p in patterns)]


def _default_sites(model: Model, sites: ModelSites, x: Inputs, scope: Scope) -> list[str]:
    if scope == "unit":
        return sites_with_units(model, x)
    module = network(model)
    if isinstance(module, BayesianModule):
        weights = connection_weights(module, x)
        return [name for name in sites.latent if name in weights]
    latent = sites.latent.items()
    return [name for name, site in latent if _is_real(site) and site["value"].numel() > 1]


def sites_with_units(model: Model, x: Inputs) -> list[str]:
    """Return the weights of a lifted network's Linear and Conv layers except the output layers.

    The first dimension of such a weight counts units. The units of an output layer, which no other
    such layer follows, are the outputs of the network and are not pruned.

    Raises:
        ValueError: if the model is not a `BayesianModule`.
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
