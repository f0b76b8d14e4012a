"""Which sites of a model may be pruned."""

from fnmatch import fnmatchcase

import torch
from torch import nn

from pyro_bayesprune.models.module import BayesianModule, Model, network
from pyro_bayesprune.models.sites import ModelSites
from pyro_bayesprune.pruning.registry import Scope


def prunable_sites(
    model: Model,
    sites: ModelSites,
    wanted: tuple[str, ...] | None,
    scope: Scope = "layer",
) -> list[str]:
    """Return the names of the sites to prune.

    Raises:
        ValueError: for a pattern that matches nothing, a site whose support or density at zero
            excludes a pruned weight, or, with scope ``"unit"``, one that has no units to prune; the
            message names it.
    """
    if wanted is None and scope == "unit":
        chosen = sites_with_units(model)
    elif wanted is None:
        chosen = [name for name, site in sites.latent.items() if _prunable(model, site)]
    else:
        wanted = (wanted,) if isinstance(wanted, str) else tuple(wanted)
        for pattern in wanted:
            if not any(fnmatchcase(name, pattern) for name in sites.latent):
                raise ValueError(f"no site matches {pattern!r}; there are {sorted(sites.latent)}")
        chosen = [n for n in sites.latent if any(fnmatchcase(n, p) for p in wanted)]
    for name in chosen:
        _check_zero(name, sites.latent[name])
        if scope == "unit" and name not in sites_with_units(model):
            raise ValueError(
                f"scope='unit' prunes the units of {sites_with_units(model)}, not {name!r}: that "
                f"is the output layer or no weight of a Linear or Conv layer"
            )
    return chosen


def sites_with_units(model: Model) -> list[str]:
    """Return the weights of a lifted network's Linear and Conv layers, the last of them left out.

    The last, in the order of the module's parameters, is the output layer: its units are the
    network's outputs. Of the others, the first dimension counts units.

    Raises:
        ValueError: for a model that is no `BayesianModule`.
    """
    if not isinstance(model, BayesianModule):
        raise ValueError("scope='unit' needs a BayesianModule: another model's sites have no units")
    layers = dict(model.net.named_modules())
    weights = [n for n, p in model.net.named_parameters() if p.dim() >= 2]
    return [n for n in weights[:-1] if _has_units(layers[n.rpartition(".")[0]], n)]


def _has_units(layer: nn.Module, name: str) -> bool:
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return isinstance(layer, kinds) and name.rpartition(".")[2] == "weight"


def _is_real(site: dict) -> bool:
    constraint = site["fn"].support
    while isinstance(constraint, torch.distributions.constraints.independent):
        constraint = constraint.base_constraint
    return constraint is torch.distributions.constraints.real


def _prunable(model: Model, site: dict) -> bool:
    module = network(model)
    if isinstance(module, BayesianModule):
        names = dict(module.net.named_parameters())
        return site["name"] in names and names[site["name"]].dim() >= 2
    return _is_real(site) and site["value"].numel() > 1


def _check_zero(name: str, site: dict) -> None:
    zero = torch.zeros_like(site["value"])
    if not _is_real(site) or not torch.isfinite(site["fn"].log_prob(zero)).all():
        raise ValueError(
            f"the site {name!r} cannot be pruned: its prior {type(site['fn']).__name__} of support "
            f"{site['fn'].support} has no finite density at zero on the real line"
        )
