"""A fit as a run in memory, for its report."""

from typing import Any

from torch import Tensor

from pyro_bayesprune.data.dataset import Dataset
from pyro_bayesprune.experiments.loading import Run
from pyro_bayesprune.experiments.running import test_metrics
from pyro_bayesprune.inference.draws import Draws
from pyro_bayesprune.inference.metrics import sizes
from pyro_bayesprune.models.module import BayesianModule, network
from pyro_bayesprune.reporting.analysis import calibrated, diagnosed, num_classes, plain
from pyro_bayesprune.training.fitting import Fit

EXAMPLES = 2000  # of the test (and of the training) part at most


def run_of_fit(fit: Fit, data: Dataset, draws: Draws | None = None) -> Run:
    """Return a fit as a run without a folder, with its analysis.

    Args:
        fit: a fit of any Pyro model.
        data: its data; the test part is measured.
        draws: draws around the fit, for diagnostics and averaged predictions.
    """
    analysis: dict[str, Any] = {"examples": EXAMPLES}
    analysis |= calibrated(fit, data, draws, examples=EXAMPLES)
    if draws is not None:
        from pyro_bayesprune.diagnostics import conversion  # needs ArviZ

        idata = conversion.to_arviz(draws, data, history=fit.history, examples=EXAMPLES)
        analysis |= diagnosed(fit, data, draws, idata)
    metrics = _metrics(fit, data) | {"num_classes": num_classes(fit, data)}
    settings = {"dataset": data.name, "network": _name(fit), "sparsity": _target(fit)}
    return Run(settings, plain(metrics), fit.history, analysis=plain(analysis), fit=fit)


def _name(fit: Fit) -> str:
    module = network(fit.model)
    if isinstance(module, BayesianModule):
        module = module.net
    return getattr(fit.model, "__name__", "model") if module is None else type(module).__name__


def _target(fit: Fit) -> float | str:
    target = float(fit.history["target"].iloc[-1]) if len(fit.history) else fit.sparsity
    return target if target < 1 else "auto"


def _metrics(fit: Fit, data: Dataset) -> dict[str, Any]:
    module, counted = network(fit.model), list(fit.weights.values())
    if isinstance(module, BayesianModule):  # scales and a noise are no parameters of the network
        counted = list(module.net.parameters())
    last: dict[str, Any] = dict(fit.history.iloc[-1]) if len(fit.history) else {}
    seconds = sum(fit.history[c].sum() for c in map(str, fit.history) if "seconds_" in c)
    return {
        "method": "fit",
        **test_metrics(fit.model, fit.weights, data),
        **{name: value for name, value in last.items() if name.startswith("validation_")},
        **sizes(sum(weight.numel() for weight in counted), fit.masks),
        "shape": list(data.shape) if isinstance(data.train_x, Tensor) else None,
        "num_train": data.num_train,
        "epochs": fit.state.epoch,
        "seconds": float(seconds),
    }
