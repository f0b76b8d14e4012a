"""Calibration of a classifier's probabilities, and its entropy.

Everything is a function of class probabilities, so that a MAP, the mean over draws, a dense and a
pruned network are compared by the same numbers.
"""

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from pyro_bayesprune.inference import metrics

REJECTED = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)


def predictive_entropy(probabilities: Tensor) -> Tensor:
    """Return the entropy -Σ p ln p of each prediction (n,), nats: 0 is sure, ln(classes) guessing.

    Args:
        probabilities: class probabilities (n, classes).
    """
    return torch.special.entr(probabilities.double()).sum(-1)


def scores(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """Return accuracy, NLL (nats), Brier score, ECE and mean predictive entropy (nats)."""
    return {
        "accuracy": metrics.accuracy(probabilities, labels),
        "nll": metrics.negative_log_likelihood(probabilities, labels),
        "brier": metrics.brier(probabilities, labels),
        "ece": metrics.expected_calibration_error(probabilities, labels),
        "entropy": predictive_entropy(probabilities).mean().item(),
    }


def reliability_table(probabilities: Tensor, labels: Tensor, bins: int = 10) -> pd.DataFrame:
    """Return confidence and accuracy in bins of confidence (Guo et al., 2017).

    The weighted mean of ``|accuracy - confidence|`` over these bins is the ECE with as many bins.

    Args:
        probabilities: class probabilities (n, classes).
        labels: classes (n,).
        bins: of equal width in (0, 1]; empty ones are left out.
    """
    confidence, predicted = probabilities.double().max(-1)
    frame = pd.DataFrame(
        {
            "bin": (confidence * bins).ceil().clamp(1, bins).int().numpy() - 1,
            "confidence": confidence.numpy(),
            "accuracy": (predicted == labels).double().numpy(),
        }
    )
    table = frame.groupby("bin").mean()
    table.insert(0, "examples", frame.groupby("bin").size())
    table = table.reset_index()
    table.insert(0, "to", (table["bin"] + 1) / bins)
    table.insert(0, "from", table.pop("bin") / bins)
    return table


def rejection_table(
    probabilities: Tensor, labels: Tensor, rejected: Sequence[float] = REJECTED
) -> pd.DataFrame:
    """Return the accuracy on what is left when the share of highest entropy is handed to a human.

    Args:
        probabilities: class probabilities (n, classes).
        labels: classes (n,).
        rejected: shares in [0, 1).
    """
    order = predictive_entropy(probabilities).argsort(stable=True)
    correct = (probabilities.argmax(-1) == labels).double()[order]
    kept = [max(1, round(len(order) * (1 - share))) for share in rejected]
    accuracies = [correct[:count].mean().item() for count in kept]
    return pd.DataFrame({"rejected": list(rejected), "examples": kept, "accuracy": accuracies})


def class_frequencies(classes: Tensor, num_classes: int) -> Tensor:
    """Return how often each class occurs (num_classes,), of sampled or true classes."""
    return torch.bincount(classes.flatten(), minlength=num_classes) / classes.numel()
