"""Import of ArviZ in one place, which hides the announcement of its next major version."""

import warnings
from typing import Any

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", r"\s*ArviZ is undergoing", FutureWarning)
    import arviz as az

InferenceData = Any  # arviz.InferenceData; ArviZ has no type annotations

__all__ = ["InferenceData", "az"]
