"""Networks as Pyro models, pruning as an effect handler, priors, likelihoods and model sites."""

from pyro_bayesprune._deprecated import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    submodules=["networks", "priors"],
    handler=["pruned"],
    likelihoods=["categorical", "gaussian"],
    module=["BayesianModule"],
    networks=["CNN", "FCN", "LeNet5"],
    plain=["bake"],
)
