"""Copies of modules that store more than parameters and buffers: activations, locks, open files."""

import copy
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pyro_bayesprune.models.module import Model, submodules

M = TypeVar("M", bound=Model)
TORCH_ATTRIBUTES = ("_parameters", "_buffers", "_modules")


def copied(model: M) -> M:
    """Return a deep copy of a model; functions, and attributes that cannot be copied, are shared.

    Results of a computation that a module stores (an activation, the weight of an old-style
    ``weight_norm``) are copied without their history.

    Args:
        model: a module, a function, or either under Pyro's handlers.
    """
    values = _attributes(model)
    memo: dict[int, Any] = {
        id(v): v.detach().clone() for v in values if isinstance(v, Tensor) and not v.is_leaf
    }
    try:
        return copy.deepcopy(model, dict(memo))
    except (TypeError, RuntimeError, AttributeError):
        shared = {id(v): v for v in values if id(v) not in memo and not _can_be_copied(v)}
        return copy.deepcopy(model, memo | shared)


def _attributes(model: Model) -> list[Any]:
    """All attributes of a module and its submodules, with the items of lists and dictionaries."""
    parts = (vars(part) for _, part in submodules(model))
    return [
        leaf
        for attributes in parts
        for name, value in attributes.items()
        if name not in TORCH_ATTRIBUTES
        for leaf in tree_leaves(value)
    ]


def _can_be_copied(value: Any) -> bool:  # noqa: ANN401
    if isinstance(value, (nn.Module, Tensor)):
        return True  # attributes of a module are examined one by one
    try:
        copy.deepcopy(value)
    except Exception:  # an object of the user's may raise anything
        return False
    return True
