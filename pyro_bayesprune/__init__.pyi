from . import (
    config,
    criteria,
    curvature,
    data,
    diagnostics,
    draws,
    evidence,
    experiment,
    export,
    inference_data,
    metrics,
    networks,
    paper,
    plots,
    priors,
    report,
    results,
    runs,
    training,
)
from .config import Config, configure
from .data import Dataset, load_dataset
from .experiment import Result, load_run, run
from .grids import grid
from .model import BayesianModule, categorical, gaussian, pruned
from .networks import CNN, FCN
from .posterior import BayesFactor, LogJoint, log_joint
from .pruning import Pruning, prune_step
from .results import load_histories, load_results
from .training import Fit, fit, train
