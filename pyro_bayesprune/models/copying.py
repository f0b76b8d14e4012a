"""Copies of modules that keep more than parameters and buffers: activations, locks, open files."""

import copy
from collections.abc import Iterator
from typing import Any, TypeVar

from torch import Tensor, nn

from pyro_bayesprune.models.module import network

M = TypeVar("M")
TORCH_OWN = ("_parameters", "_buffers", "_modules")


def copied(model: M) -> M:
    """Return a deep copy of a model; functions, and attributes that cannot be copied, are shared.

    Results of a computation that a module keeps (an activation, the weight of an old-style
    ``weight_norm``) are copied without their history.

    Args:
        model: a module, a function, or either under Pyro's handlers.
    """
    module = network(model)  # type: ignore[arg-type]
    memo: dict[int, Any] = {}
    for value in _attributes(module):
        if isinstance(value, Tensor) and not value.is_leaf:
            memo[id(value)] = value.detach().clone()
    try:
        return copy.deepcopy(model, dict(memo))
    except (TypeError, RuntimeError, AttributeError):
        shared = {id(v): v for v in _attributes(module) if id(v) not in memo and not _copies(v)}
        return copy.deepcopy(model, memo | shared)


def _attributes(module: nn.Module | None) -> Iterator[Any]:
    """Attributes of a module and its submodules, and what their lists and dictionaries hold."""
    parts = module.modules() if module is not None else ()
    for part in parts:
        for name, value in vars(part).items():
            if name not in TORCH_OWN:
                yield from _contents(value)


def _contents(value: Any) -> Iterator[Any]:  # noqa: ANN401
    yield value
    inside = value.values() if isinstance(value, dict) else value
    if isinstance(value, (list, tuple, dict)):
        for item in inside:
            yield from _contents(item)


def _copies(value: Any) -> bool:  # noqa: ANN401
    if isinstance(value, (nn.Module, Tensor, list, tuple, dict)):
        return True  # a module's own attributes are looked at, and so are the items of these
    try:
        copy.deepcopy(value)
    except Exception:  # whatever an object of the user's says
        return False
    return True
