"""Prune trained networks in several ways, without retraining and with one epoch of it.

    python reports/trained/make.py

appends missing rows to prunings.csv, and writes trained.png and README.md. It needs the
data files of MNIST, Fashion-MNIST and CIFAR-10. All numbers are of one seed and one thread.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from page import figure, page
from sparsegpt import sparsegpt

import pyro_bayesprune as bp
from pyro_bayesprune._utils.provenance import provenance
from pyro_bayesprune.data.loading import random_sample
from pyro_bayesprune.inference.conditioning import Conditioning
from pyro_bayesprune.inference.prediction import class_probabilities
from pyro_bayesprune.models.module import Weights
from pyro_bayesprune.training.fitting import with_buffers

FOLDER = Path(__file__).parent
SEED, SCALE, EPOCHS = 0, 0.3, 4
DATASETS = ("mnist", "fashion_mnist", "cifar10")
NETWORKS = {"fcn": bp.FCN, "cnn": bp.CNN}
EARLY = {("mnist", "fcn"), ("fashion_mnist", "fcn")}  # are also pruned after these epochs:
EARLY_EPOCHS = (1, 2)
RETRAINED = {"fcn": ("project", "condition"), "cnn": ("condition",)}
LEVELS = {"fcn": (0.8, 0.9, 0.95, 0.98), "cnn": (0.9, 0.98)}


def trained(dataset: str, network: str, data: bp.Dataset) -> Iterator[bp.Fit]:
    """Yield the network after each of the epochs at which it is pruned."""
    torch.manual_seed(SEED)
    net = NETWORKS[network](data.shape, data.num_classes)
    model = bp.BayesianModule(net, bp.priors.normal(SCALE), data.num_train)
    for state, epoch in bp.train(model, data, epochs=EPOCHS, seed=SEED):
        print(f"{dataset} {network}: epoch {state.epoch}", flush=True)
        early = (dataset, network) in EARLY and state.epoch in EARLY_EPOCHS
        if early or state.epoch == EPOCHS:
            yield bp.Fit(with_buffers(model, state), state, pd.DataFrame([epoch.row()]))


def measures(model: bp.BayesianModule, weights: Weights, data: bp.Dataset) -> dict[str, float]:
    """Return the log joint in parts, per training example, and the test results."""
    joint = bp.log_joint(model, weights, data)
    probabilities = class_probabilities(model, weights, data.test_x)
    return {
        "log_likelihood": joint.log_likelihood / data.num_train,
        "log_joint": joint.total / data.num_train,
        "test_accuracy": bp.metrics.accuracy(probabilities, data.test_y),
        "test_nll": bp.metrics.negative_log_likelihood(probabilities, data.test_y),
    }


def ways(
    fit: bp.Fit, data: bp.Dataset, level: float, retrained: tuple[str, ...]
) -> Iterator[dict[str, Any]]:
    """Yield a row for each way to prune a network to one level.

    Args:
        fit: the network.
        data: the data.
        level: the sparsity.
        retrained: updates after which the network is trained for another epoch.
    """
    for update in ("project", "condition"):
        started = time.perf_counter()
        pruned = bp.prune(fit.model, fit.weights, data, level, update=update, seed=SEED)
        seconds = time.perf_counter() - started
        occam = pruned.levels["log_occam_ratio"].iloc[-1] / data.num_train
        yield {"way": update, "seconds": seconds, "occam": occam, "weights": pruned.weights}
        if update in retrained:
            started = time.perf_counter()
            epoch = bp.fit(fit.model, data, state=pruned.state, epochs=1, seed=SEED, progress=False)
            seconds = time.perf_counter() - started
            yield {"way": f"{update}, one epoch", "seconds": seconds, "weights": epoch.weights}
    started = time.perf_counter()
    sample = random_sample(data, torch.Generator().manual_seed(SEED))
    conditioning = Conditioning(fit.model, fit.weights, sample, tuple(pruned.masks))
    weights = sparsegpt(conditioning, pruned.masks)
    yield {"way": "sparsegpt", "seconds": time.perf_counter() - started, "weights": weights}


def automatic(fit: bp.Fit, data: bp.Dataset) -> dict[str, Any]:
    """Return the row of the level that the Bayes factor chooses."""
    started = time.perf_counter()
    pruned = bp.prune(fit.model, fit.weights, data, "auto", seed=SEED)
    seconds = time.perf_counter() - started
    return {
        "way": "auto",
        "seconds": seconds,
        "weights": pruned.weights,
        "sparsity": pruned.sparsity,
    }


def rows(dataset: str, network: str) -> Iterator[dict[str, Any]]:
    """Yield all rows of one network on one data set."""
    data = bp.load_dataset(dataset)
    for fit in trained(dataset, network, data):
        base = {"dataset": dataset, "network": network, "epoch": fit.state.epoch}
        yield base | {"way": "dense", "sparsity": 0.0} | measures(fit.model, fit.weights, data)
        for level in LEVELS[network]:
            for row in ways(fit, data, level, RETRAINED[network]):
                results = measures(fit.model, row.pop("weights"), data)
                yield base | {"sparsity": level} | row | results
        if fit.state.epoch == EPOCHS and network == "fcn":
            row = automatic(fit, data)
            results = measures(fit.model, row.pop("weights"), data)
            yield base | row | results


def main() -> None:
    """Measure what is missing, and write the page."""
    torch.set_num_threads(1)
    path = FOLDER / "prunings.csv"
    table = pd.read_csv(path) if path.exists() else pd.DataFrame({"dataset": [], "network": []})
    for network in NETWORKS:
        for dataset in DATASETS:
            if not ((table["dataset"] == dataset) & (table["network"] == network)).any():
                new = pd.DataFrame(rows(dataset, network))
                table = pd.concat([table, new], ignore_index=True)
                table.to_csv(path, index=False, float_format="%.6g")
                (FOLDER / "machine.json").write_text(json.dumps(provenance(), indent=2) + "\n")
    machine = json.loads((FOLDER / "machine.json").read_text())
    (FOLDER / "README.md").write_text(page(table, machine), encoding="utf-8")
    figure(table).savefig(FOLDER / "trained.png", dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    main()
