"""Diagnostics of posterior draws (ArviZ) and of predictions: calibration and shifted inputs."""

from pyro_bayesprune._deprecated import attach

_CALIBRATION = "predictive_entropy rejection_table reliability_table scores"
_SHIFT = "noised out_of_distribution_auroc rotated shift_table"
_STATISTICS = "compare convergence frequencies loo pareto_table power_scaling summary trace_frame"

__getattr__, __dir__, __all__ = attach(
    __name__,
    calibration=_CALIBRATION.split(),
    conversion=["load", "save", "to_arviz"],
    shift=_SHIFT.split(),
    statistics=_STATISTICS.split(),
)
