"""Bayesian pruning of neural networks on Pyro (Mathew & Rowe), and what goes beyond the paper.

Names load on first use (torch, ArviZ and Matplotlib are slow to import); ``__init__.pyi`` has
the list.
"""

import os
from importlib import import_module

import lazy_loader

from pyro_bayesprune import _deprecated

# Idle threads of torch sleep instead of spinning; otherwise a training becomes many times slower
# beside another program. It has an effect if torch is imported afterwards, also in workers.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.2.0"

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
_deprecated.install()


def __getattr__(name: str) -> object:
    if name == "Result":
        return _deprecated.moved("experiment", name)
    if name in _deprecated.MODULES and name not in __all__:
        return import_module(f"{__name__}.{name}")
    return _load(name)
