"""The names that configurations and the command line use, and their meaning.

Each name maps to ``"module:function"`` below `pyro_bayesprune`, so that this module imports neither
torch nor Pyro. A new data set, network, prior, criterion or schedule needs one function and one
line here.
"""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

Gate = Literal["propose", "retain", "previous", "always"]
Evaluation = Literal["full", "sequential"]
Scope = Literal["layer", "global", "unit"]
Update = Literal["project", "condition"]
Per = Literal["datum", "dataset"]
Objective = Literal["map", "mle"]
Autocast = Literal["none", "bf16"]
Restart = Literal["no", "rewind", "reinitialise", "shuffle"]

DATASETS = {
    "digits": "data.builtin:load_dataset",
    "diabetes": "data.builtin:load_dataset",
    "mnist": "data.builtin:load_dataset",
    "fashion_mnist": "data.builtin:load_dataset",
    "cifar10": "data.builtin:load_dataset",
}
NETWORKS = {
    "fcn": "models.networks:FCN",
    "cnn": "models.networks:CNN",
    "lenet_300_100": "models.networks:lenet_300_100",
    "lenet5": "models.networks:LeNet5",
}
PRIORS = {
    "normal": "models.priors:normal",
    "normal_per_datum": "models.priors:normal_per_datum",
    "fan_in_normal": "models.priors:fan_in_normal",
    "laplace": "models.priors:laplace",
    "student_t": "models.priors:student_t",
    "layer_scale": "models.priors:layer_scale",
    "evidence_normal": "models.priors:evidence_normal",
}
LIKELIHOODS = {
    "categorical": "models.likelihoods:categorical",
    "bernoulli": "models.likelihoods:bernoulli",
    "gaussian": "models.likelihoods:gaussian",
    "poisson": "models.likelihoods:poisson",
}
CRITERIA = {
    "magnitude": "pruning.criteria:magnitude",
    "random": "pruning.criteria:random",
    "shuffled_magnitude": "pruning.criteria:shuffled_magnitude",
    "fisher": "pruning.criteria:fisher",
    "opd": "pruning.criteria:opd",
    "snr": "pruning.criteria:snr",
    "savage_dickey": "pruning.criteria:savage_dickey",
}
SCHEDULES = {
    "cubic": "pruning.schedules:cubic",
    "constant": "pruning.schedules:constant",
    "one_shot": "pruning.schedules:one_shot",
}

# The paper's methods and the presets stand for settings of a configuration.
_MLE = {"objective": "mle", "gate": "always", "update": "project"}
_MAP = {"objective": "map", "prior": "normal", "gate": "previous", "update": "project"}
METHODS: dict[str, dict[str, Any]] = {
    "unpruned": _MLE | {"criterion": "magnitude", "sparsity": 0.0},
    "bayes_unpruned": _MAP | {"criterion": "magnitude", "sparsity": 0.0},
    "random": _MLE | {"criterion": "random"},
    "magnitude": _MLE | {"criterion": "magnitude"},
    "bayes_random": _MAP | {"criterion": "random"},
    "bayes_magnitude": _MAP | {"criterion": "magnitude"},
}
PRESETS: dict[str, dict[str, Any]] = {
    "default": {
        "objective": "map",
        "prior": "normal_per_datum",
        "prior_scale": 0.3,
        "criterion": "magnitude",
        "scope": "global",
        "schedule": "cubic",
        "update": "project",
        "judge": "project",
        "annealing": True,
    },
    "paper": {
        "validation": 0.0,
        "hidden": (1024, 1024, 1024),
        "prior_scale": 1.0,
        "gate": "previous",
        "update": "project",
        "judge": "project",
        "beta": 0.9,
        "schedule": "constant",
        "annealing": False,
    },
}


def recommended_gate(sparsity: float | str, evaluation: str = "full") -> Gate:
    """Return the gate of the default: ``retain`` where its log joints are known.

    With ``sparsity="auto"`` the evidence decides, and sequential evaluation computes no log joints.
    """
    return "propose" if sparsity == "auto" or evaluation == "sequential" else "retain"


if TYPE_CHECKING:
    NetworkName = str
    PriorName = str
    LikelihoodName = str
    CriterionName = str
    ScheduleName = str
    MethodName = str
    PresetName = str
else:  # choices of the command line; a type checker does not accept computed literals
    NetworkName = Literal[tuple(NETWORKS)]
    PriorName = Literal[tuple(PRIORS)]
    LikelihoodName = Literal[tuple(LIKELIHOODS)]
    CriterionName = Literal[tuple(CRITERIA)]
    ScheduleName = Literal[tuple(SCHEDULES)]
    MethodName = Literal[tuple(METHODS)]
    PresetName = Literal[tuple(PRESETS)]


def resolve(names: dict[str, str], name: str) -> Callable[..., Any]:
    """Return the function of a name.

    Args:
        names: one of the dictionaries of this module, e.g. `CRITERIA`.
        name: one of its keys.

    Raises:
        ValueError: if the name is unknown.
    """
    if name not in names:
        raise ValueError(f"unknown name {name!r}: expected one of {', '.join(names)}")
    module, _, function = names[name].partition(":")
    return getattr(import_module(f"pyro_bayesprune.{module}"), function)
