"""MAP training with one pruning step at the end of each epoch."""

from pyro_bayesprune._deprecated import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    fitting=["Fit", "fit"],
    loop=["train"],
    state=["Epoch", "State"],
    trainer=["TrainingDiverged"],
)
