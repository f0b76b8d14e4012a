"""The pruning step: names, criteria, masks, schedules, gates, the record and its replay."""

from pyro_bayesprune._deprecated import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    submodules=["criteria"],
    record=["PruneState", "Record", "Try"],
    settings=["Pruning"],
    step=["prune_step"],
)
