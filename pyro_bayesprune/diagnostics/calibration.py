"""Calibration and entropy of predicted class probabilities.

All functions take class probabilities. The same measures therefore apply to a MAP network, to the
mean over posterior draws, and to dense and pruned networks. Where an example has several labels
(n, ...), each label counts. The calibration of other targets is in `inference.targets`.
"""

import pandas as pd
import torch
from torch import Tensor

from pyro_bayesprune.inference.metrics import confidence_bins
from pyro_bayesprune.inference.targets import class_scores

REJECTED = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)


def predictive_entropy(probabilities: Tensor) -> Tensor:
    """Return the entropy -Σ p ln p of each prediction (n, ...), in nats, from 0 to ln(classes).

    Args:
        probabilities: class probabilities (n, ..., classes).
    """
    return torch.special.entr(probabilities.double()).sum(-1)


def scores(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """Return accuracy, NLL (nats), Brier score, ECE and mean predictive entropy (nats)."""
    entropy = predictive_entropy(probabilities).mean().item()
    return class_scores(probabilities, labels) | {"entropy": entropy}


def reliability_table(probabilities: Tensor, labels: Tensor, bins: int = 10) -> pd.DataFrame:
    """Return mean confidence and accuracy in bins of confidence (Guo et al., 2017).

    The mean of ``|accuracy - confidence|``, weighted by examples, is the ECE for these bins.

    Args:
        probabilities: class probabilities (n, classes).
        labels: classes (n,).
        bins: number of bins of equal width in (0, 1]. Empty bins are omitted.
    """
    names = ("bin", "confidence", "accuracy")
    values = [part.numpy() for part in confidence_bins(probabilities, labels, bins)]
    frame = pd.DataFrame(dict(zip(names, values, strict=True)))
    groups = frame.groupby("bin")
    table = groups.mean().assign(examples=groups.size()).reset_index()
    table["from"], table["to"] = table["bin"] / bins, (table["bin"] + 1) / bins
    return table[["from", "to", "examples", "confidence", "accuracy"]]


def rejection_table(probabilities: Tensor, labels: Tensor) -> pd.DataFrame:
    """Return the accuracy on the remaining examples if shares of highest entropy are rejected.

    Args:
        probabilities: class probabilities (n, classes).
        labels: classes (n,).
    """
    probabilities, labels = probabilities.cpu(), labels.cpu()
    order = predictive_entropy(probabilities).flatten().argsort(stable=True)
    correct = (probabilities.argmax(-1) == labels).double().flatten()[order]
    counts = [max(1, round(len(order) * (1 - share))) for share in REJECTED]
    accuracies = [correct[:count].mean().item() for count in counts]
    return pd.DataFrame({"rejected": REJECTED, "examples": counts, "accuracy": accuracies})
