"""Configurations, their runs in folders, grids of runs, and the statistics of results."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, ["results"])
