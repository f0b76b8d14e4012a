from . import data, diagnostics, experiments, export, inference, models, paper, plots, pruning
from . import reporting, training
from .data.builtin import load_dataset
from .data.dataset import Dataset
from .data.loading import as_batches
from .experiments.config import Config, configure
from .experiments.grids import grid
from .experiments.loading import Run, load_run, load_runs
from .experiments.results import load_histories, load_results
from .experiments.running import run
from .inference import metrics
from .inference.bayes_factor import BayesFactor
from .inference.log_joint import LogJoint, log_joint
from .models import likelihoods, networks, priors
from .models.handler import pruned
from .models.likelihoods import categorical, gaussian
from .models.module import BayesianModule
from .models.networks import CNN, FCN
from .pruning import criteria
from .pruning.settings import Pruning
from .pruning.step import prune_step
from .reporting.page import report
from .training.fitting import Fit, fit
from .training.loop import train
from .training.pruner import Pruner
from .training.trained import PrunedNetwork, prune

__version__: str
