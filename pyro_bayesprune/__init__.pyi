from . import (
    config,
    criteria,
    data,
    experiment,
    export,
    metrics,
    networks,
    plots,
    priors,
    runs,
    training,
)
from .config import Config, configure
from .data import Dataset, load_dataset
from .experiment import Result, load_run, run
from .model import BayesianModule, categorical, gaussian, pruned
from .networks import CNN, FCN
from .posterior import BayesFactor, LogJoint, log_joint
from .pruning import Pruning, prune_step
from .training import Fit, fit, train
