"""Bayesian pruning of neural networks on Pyro (Mathew & Rowe), and what goes beyond the paper.

Names load on first use (torch, ArviZ and Matplotlib are slow to import); ``__init__.pyi`` has
the list.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
