"""ArviZ, imported in one place: once a day version 0.23 announces its next major version."""

import warnings
from typing import Any

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", r"\s*ArviZ is undergoing", FutureWarning)
    import arviz as az

InferenceData = Any  # arviz.InferenceData; ArviZ is untyped

__all__ = ["InferenceData", "az"]
