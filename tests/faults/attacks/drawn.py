"""Trainings and masks with something odd in them, drawn by hypothesis, and how each must end."""

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro.distributions as dist
import torch
from hypothesis import strategies as st
from torch import nn

import pyro_bayesprune as bp
from pyro_bayesprune.experiments.errors import RunError
from pyro_bayesprune.training.trainer import TrainingDiverged

CLEAR = (ValueError, TypeError, RunError, TrainingDiverged)


numbers = st.one_of(st.floats(), st.integers(), st.integers(-3, 3), st.floats(0, 1))


anything = st.one_of(
    numbers, st.none(), st.booleans(), st.text(max_size=8), st.lists(numbers, max_size=3)
)


def clear(error: Exception, limit: int = 2000) -> str:
    """An error that a user can read: it says something, on one screen."""
    assert 0 < len(str(error)) < limit, error
    return f"one error ({type(error).__name__})"


def finite(fit: Any) -> None:
    """The numbers of a fit are finite, but for what was never measured."""
    assert all(torch.isfinite(w).all() for w in fit.weights.values())
    for name in ("train_loss", "log_bf", "log_joint_before", "log_joint_after", "sparsity"):
        assert fit.history[name].map(math.isfinite).all(), (name, fit.history[name])


def settled(act: Callable[[], Any]) -> str:
    """Train: finite numbers, or one clear error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # an emptied layer, a training that stopped
        try:
            finite(act())
        except CLEAR as error:
            return clear(error)
    return "trained; finite"


odd = st.sampled_from([0.0, 1.0, -1.0, 1e-40, 1e20, 3e38, math.nan, math.inf, -math.inf])


scales = st.sampled_from(
    [1.0, 1.0, 1.0, 0.3, 0.3, 0.3, 1e-3, 1e3, 1e-30, 1e30, 0.0, -1.0, math.nan, math.inf]
)


@st.composite
def trainings(draw: Any) -> dict[str, Any]:
    """A training with something odd in its data, prior, network or pruning."""
    n, features, classes = draw(st.integers(1, 9)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    x = torch.randn(n, features) * draw(st.sampled_from([1.0, 1.0, 0.0, 1e-30, 1e18, 1e30]))
    if draw(st.integers(0, 5)) == 0:
        x[0, 0] = draw(odd)
    y = torch.randint(0, classes, (n,))
    y = y.to(draw(st.sampled_from([torch.int64] * 20 + [torch.float32, torch.int32, torch.uint8])))
    return {
        "data": (x, y),
        "net": (
            features + (draw(st.integers(0, 9)) == 0),
            draw(st.sampled_from([*range(1, 9), 0])),
            classes,
        ),
        "scale": draw(scales),
        "by_element": draw(st.booleans()),
        "pruning": {
            "criterion": draw(st.sampled_from(["magnitude", "random", "fisher", "opd"])),
            "sparsity": draw(st.sampled_from([0.0, 0.5, 0.5, 0.9, 0.9, 0.99, 0.99, 1.0, math.nan])),
            "gate": draw(st.sampled_from(["propose", "previous", "always"])),
            "beta": draw(st.sampled_from([0.0, 0.5, 0.95, 0.95, 1.0, 1e300, -1.0, math.inf])),
            "schedule": draw(st.sampled_from(["constant", "cubic", "one_shot"])),
            "scope": draw(st.sampled_from(["layer", "global", "unit"])),
            "regrow": draw(st.booleans()),
        },
        "objective": draw(st.sampled_from(["map", "mle"])),
        "batch_size": draw(st.sampled_from([1, 3, 64, 10**12])),
    }


def use_training(given_: dict[str, Any], folder: Path) -> str:
    features, hidden, classes = given_["net"]
    scale, (x, y) = given_["scale"], given_["data"]

    def by_element(name: str, shape: torch.Size) -> Any:
        return dist.Normal(0.0, torch.full(shape, scale)).to_event(len(shape))

    def act() -> bp.Fit:
        net = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, classes))
        prior = by_element if given_["by_element"] else bp.priors.normal(scale)
        model = bp.BayesianModule(net, prior, len(x))
        options = {name: given_[name] for name in ("objective", "batch_size")}
        return bp.fit(model, (x, y), pruning=bp.Pruning(**given_["pruning"]), epochs=2,
                      progress=False, **options)  # fmt: skip

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Initializing zero-element")
        return settled(act)


masks = st.dictionaries(
    st.sampled_from(["0.weight", "0.bias", "1.weight"]),
    st.tuples(
        st.sampled_from([[3, 2]] * 4 + [[3], [2, 3], [3, 2, 1], [], [0]]),
        st.sampled_from([torch.bool] * 4 + [torch.uint8, torch.float32]),
    ),
    max_size=2,
)


def use_masks(given_: dict[str, Any], folder: Path) -> str:
    made = {name: torch.ones(shape).to(dtype) for name, (shape, dtype) in given_.items()}
    model = bp.BayesianModule(nn.Sequential(nn.Linear(2, 3)), bp.priors.normal(1.0), 4)
    weights = {n.removeprefix("net."): p.detach() for n, p in model.named_parameters()}
    data = torch.randn(4, 2), torch.tensor([0, 1, 2, 0])
    try:
        joint = bp.log_joint(model, weights, data, made)
    except CLEAR as error:
        return clear(error)
    assert math.isfinite(joint.total)
    return "a finite density"
