"""Diagnostics of draws (ArviZ) and of predictions: convergence, LOO, calibration, shift."""

from pyro_bayesprune._deprecated import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    calibration=[
        "class_frequencies",
        "predictive_entropy",
        "rejection_table",
        "reliability_table",
        "scores",
    ],
    conversion=["load", "save", "to_arviz"],
    shift=["noised", "out_of_distribution_auroc", "rotated", "shift_table"],
    statistics=[
        "compare",
        "convergence",
        "frequencies",
        "loo",
        "pareto_table",
        "power_scaling",
        "summary",
        "trace_frame",
    ],
)
