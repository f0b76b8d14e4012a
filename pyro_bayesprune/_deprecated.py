"""Former module paths and names. They work for one release and warn with the new place.

The table of them is `_deprecated.toml`.
"""

import sys
import tomllib
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import lazy_loader

PACKAGE = "pyro_bayesprune"
REMOVED_IN = "0.3"

TABLE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
MODULES = {old: new.split() for old, new in TABLE["modules"].items()}


def moved(old: str, name: str) -> Any:  # noqa: ANN401
    """Return the object that was ``pyro_bayesprune.<old>.<name>``.

    Warns:
        DeprecationWarning: with the new place.

    Raises:
        AttributeError: if no version had such a name.
    """
    renamed = TABLE["renamed"].get(f"{old}.{name}")
    places = [renamed.split()] if renamed else [(target, name) for target in MODULES.get(old, ())]
    if name.startswith("__"):  # of modules, such as `__file__`; a search would import the targets
        places = []
    for target, new in places:
        module = import_module(f"{PACKAGE}.{target}")
        if _defines(module, new):
            message = (
                f"{PACKAGE}.{old}.{name} is now {PACKAGE}.{target}.{new}; the old name works until "
                f"version {REMOVED_IN}"
            )
            warnings.warn(message, DeprecationWarning, stacklevel=3)
            value = getattr(module, new)
            return _functions(value) if target == "pruning.registry" else value
    raise AttributeError(f"module '{PACKAGE}.{old}' has no attribute {name!r}")


def _defines(module: ModuleType, name: str) -> bool:
    """Whether a module has a name that it did not import from another module."""
    value = getattr(module, name, None)
    if isinstance(value, (FunctionType, type)):
        return value.__module__ == module.__name__
    return hasattr(module, name) and not isinstance(value, ModuleType)


def _functions(names: Any) -> Any:  # noqa: ANN401
    """Return a dictionary of the registry as before, with functions in place of their places."""
    if not (isinstance(names, dict) and all(isinstance(place, str) for place in names.values())):
        return names
    resolve = import_module(f"{PACKAGE}.pruning.registry").resolve
    return {name: resolve(names, name) for name in names}


class _Finder(Loader):
    """Finds the former modules, after all other finders."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        package, _, name = fullname.rpartition(".")
        return ModuleSpec(fullname, self) if package == PACKAGE and name in MODULES else None

    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__.rpartition(".")[2]
        module.__getattr__ = lambda name: moved(old, name)  # type: ignore[method-assign]


class _Package(ModuleType):
    """The package. A former module does not replace a public name, for example ``bp.priors``."""

    def __setattr__(self, name: str, value: object) -> None:
        if not isinstance(getattr(value, "__loader__", None), _Finder):  # set after an import
            super().__setattr__(name, value)


def install() -> None:
    """Let ``import pyro_bayesprune.<former module>`` work."""
    sys.modules[PACKAGE].__class__ = _Package
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def attach(
    package: str, submodules: Sequence[str] = (), **names: list[str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Attach lazy names to a package as `lazy_loader.attach` does, and its former names."""
    load, listed, every = lazy_loader.attach(package, submodules, names)

    def get(name: str) -> Any:  # noqa: ANN401
        try:
            return load(name)
        except AttributeError:
            if find_spec(f"{package}.{name}"):  # a module that is not imported yet
                raise
            return moved(package.removeprefix(f"{PACKAGE}."), name)

    return get, listed, every
