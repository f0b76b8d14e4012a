"""Calls with settings by name: of functions that take some of them, and with names misspelt."""

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import wraps
from inspect import Parameter, signature
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type)


def call_with(function: Callable[..., Any], *args: object, **settings: object) -> Any:  # noqa: ANN401
    """Call a function with those of the settings that it takes by name (all, if it takes any).

    Example:
        >>> call_with(lambda x, scale: x * scale, 2, scale=3, other=4)
        6
    """
    parameters = signature(function).parameters
    if not any(p.kind is Parameter.VAR_KEYWORD for p in parameters.values()):
        settings = {name: value for name, value in settings.items() if name in parameters}
    return function(*args, **settings)


def suggests_names(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function answer an unknown keyword argument with the name that was probably meant.

    Example:
        >>> suggests_names(lambda sparsity: sparsity)(sparcity=0.5)
        Traceback (most recent call last):
        TypeError: <lambda>() has no parameter 'sparcity'; did you mean 'sparsity'?
    """
    names = list(signature(function).parameters)

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in names:
                raise TypeError(
                    _unknown(function.__qualname__.removesuffix(".__init__"), name, names)
                )
        return function(*args, **kwargs)

    return checked


def suggests_fields(cls: C) -> C:
    """Make a dataclass answer an unknown keyword argument as `suggests_names` does."""
    cls.__init__ = suggests_names(cls.__init__)  # type: ignore[misc]
    return cls


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return a question that proposes the name nearest to an unknown one; empty if none is near.

    Example:
        >>> did_you_mean("sparcity", ["seed", "sparsity"])
        "; did you mean 'sparsity'?"
    """
    close = get_close_matches(name, list(names), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _unknown(function: str, name: str, names: list[str]) -> str:
    names = [n for n in names if n != "self"]
    hint = did_you_mean(name, names) or f"; there are {', '.join(names)}"
    return f"{function}() has no parameter {name!r}{hint}"
