"""The content of result.json."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from pyro_bayesprune._utils.provenance import provenance
from pyro_bayesprune.data.dataset import Dataset
from pyro_bayesprune.diagnostics.calibration import scores
from pyro_bayesprune.experiments.config import Config
from pyro_bayesprune.inference import metrics
from pyro_bayesprune.inference.prediction import class_probabilities
from pyro_bayesprune.models.module import BayesianModule
from pyro_bayesprune.training.state import State


def summarise(
    config: Config, model: BayesianModule, state: State, rows: list[dict[str, Any]], data: Dataset
) -> dict[str, Any]:
    """Return the content of result.json for a finished run with these epochs."""
    decisions = [row["decision"] for row in rows]
    last = rows[-1]
    return {
        "id": config.id,
        "method": config.method,
        **_test_metrics(model, state, data),
        **_size(model.net, state, data.shape),
        **{d: decisions.count(d) for d in ("pruned", "refused", "unchanged")},
        "prior_decided": sum(bool(row["prior_decides"]) for row in rows),
        **{k: last[k] for k in ("train_loss", "validation_loss", "validation_accuracy")},
        "log_likelihood": last["log_likelihood_after"],
        "log_prior": last["log_prior_after"],
        "epochs": len(rows),
        "seconds": sum(row["seconds_training"] + row["seconds_step"] for row in rows),
        "shape": list(data.shape),
        "num_classes": data.num_classes,
        "num_train": data.num_train,
        "data_sha256": data.sha256,
        **provenance(),
    }


def _test_metrics(model: BayesianModule, state: State, data: Dataset) -> dict[str, float]:
    if data.test_x is None or data.test_y is None:
        return {}
    device = next(iter(state.weights.values())).device
    probabilities = class_probabilities(model, state.weights, data.test_x.to(device)).cpu()
    values = scores(probabilities, data.test_y)
    names = {"accuracy": "accuracy", "loss": "nll", "brier": "brier", "ece": "ece"}
    return {f"test_{name}": values[score] for name, score in names.items()}


def _size(net: nn.Module, state: State, shape: Sequence[int]) -> dict[str, Any]:
    parameters = sum(weight.numel() for weight in net.parameters())
    pruned = sum(int((~mask).sum()) for mask in state.masks.values())
    layers, flops = metrics.layer_sparsity(state.masks), metrics.layer_flops(net, shape)
    return {
        "achieved_sparsity": metrics.sparsity(state.masks),
        "parameters": parameters,
        "prunable": sum(mask.numel() for mask in state.masks.values()),
        "compression_ratio": parameters / (parameters - pruned),
        "multiply_adds": sum(flops.values()),
        "theoretical_speedup": metrics.theoretical_speedup(flops, state.masks),
        "layer_sparsity": layers,
        "dead_units": metrics.dead_units(state.weights, state.masks),
        "collapsed_layers": [name for name, share in layers.items() if share == 1],
    }
