"""Calls with named arguments: selection of the accepted ones, and hints for misspelt names."""

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import wraps
from inspect import Parameter, signature
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type)


def call_with(function: Callable[..., Any], *args: object, **settings: object) -> Any:  # noqa: ANN401
    """Call a function with those settings that it accepts by name (all if it has ``**kwargs``).

    Example:
        >>> call_with(lambda x, scale: x * scale, 2, scale=3, other=4)
        6
    """
    parameters = signature(function).parameters
    if not any(p.kind is Parameter.VAR_KEYWORD for p in parameters.values()):
        settings = {name: value for name, value in settings.items() if name in parameters}
    return function(*args, **settings)


def suggests_names(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function so that an error for an unknown keyword argument suggests a name.

    Example:
        >>> suggests_names(lambda sparsity: sparsity)(sparcity=0.5)
        Traceback (most recent call last):
        TypeError: <lambda>() has no parameter 'sparcity'; did you mean 'sparsity'?
    """
    names = [name for name in signature(function).parameters if name != "self"]

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in names:
                called = function.__qualname__.removesuffix(".__init__")
                hint = did_you_mean(name, names) or f"; there are {', '.join(names)}"
                raise TypeError(f"{called}() has no parameter {name!r}{hint}")
        return function(*args, **kwargs)

    return checked


def suggests_fields(cls: C) -> C:
    """Decorate a dataclass like `suggests_names` decorates a function."""
    cls.__init__ = suggests_names(cls.__init__)  # type: ignore[misc]
    return cls


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return a question that suggests the most similar name; empty if no name is similar.

    Example:
        >>> did_you_mean("sparcity", ["seed", "sparsity"])
        "; did you mean 'sparsity'?"
    """
    close = get_close_matches(name, list(names), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
