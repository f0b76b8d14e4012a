"""Quantities at a point or around it: densities, predictions, curvature, evidence, draws."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, ["curvature", "draws", "evidence", "metrics"]
)
