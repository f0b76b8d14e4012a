"""How far a classifier's probabilities can be trusted: calibration, doubt, shifted inputs.

Everything is a function of class probabilities, so that a MAP, the mean over draws, a dense and a
pruned network are compared by the same numbers.
"""

from collections.abc import Callable, Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor

from pyro_bayesprune import metrics
from pyro_bayesprune.data import random_stream

Predict = Callable[[Tensor], Tensor]
ANGLES = (0.0, 15.0, 30.0, 45.0, 60.0)
NOISES = (0.0, 0.25, 0.5, 1.0, 2.0)
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


def rotated(x: Tensor, degrees: float) -> Tensor:
    """Return images (n, c, h, w) turned counter-clockwise; corners take the darkest value."""
    from torchvision.transforms.functional import InterpolationMode, rotate

    fill = x.amin((0, 2, 3)).tolist()
    return rotate(x, degrees, InterpolationMode.BILINEAR, fill=fill)


def noised(x: Tensor, scale: float, seed: int = 0) -> Tensor:
    """Return inputs with N(0, scale²) added, in units of the normalised inputs."""
    return x + scale * torch.randn(x.shape, generator=random_stream(seed, "noise"), dtype=x.dtype)


def shift_table(
    predictors: Mapping[str, Predict],
    x: Tensor,
    y: Tensor,
    *,
    angles: Sequence[float] = ANGLES,
    noises: Sequence[float] = NOISES,
) -> pd.DataFrame:
    """Return `scores` under rotation and noise, a row a predictor, shift and amount.

    A network that knows what it does not know grows less sure as it grows less accurate: entropy
    rises and ECE stays low.

    Args:
        predictors: functions from inputs to class probabilities, by name.
        x: test images (n, c, h, w); where they are no images, noise alone.
        y: their classes.
        angles: rotations, degrees.
        noises: standard deviations, in units of the normalised inputs.
    """
    shifts = [("rotation", angle) for angle in angles] if x.dim() == 4 else []
    shifts += [("noise", scale) for scale in noises]
    rows = []
    for shift, amount in shifts:
        moved = (rotated if shift == "rotation" else noised)(x, amount) if amount else x
        for name, predict in predictors.items():
            found = scores(predict(moved), y)
            rows.append({"network": name, "shift": shift, "amount": amount, **found})
    return pd.DataFrame(rows)


def out_of_distribution_auroc(inside: Tensor, outside: Tensor) -> float:
    """Return the AUROC of predictive entropy for telling foreign inputs from the network's own.

    1: every foreign input is less sure than every own one; 0.5: entropy tells nothing.

    Args:
        inside: class probabilities of test inputs (n, classes).
        outside: class probabilities of inputs from elsewhere (m, classes).
    """
    from sklearn.metrics import roc_auc_score

    entropies = torch.cat([predictive_entropy(inside), predictive_entropy(outside)])
    foreign = torch.cat([torch.zeros(len(inside)), torch.ones(len(outside))])
    return float(roc_auc_score(foreign.numpy(), entropies.numpy()))


def class_frequencies(classes: Tensor, num_classes: int) -> Tensor:
    """Return how often each class occurs (num_classes,), of sampled or true classes."""
    return torch.bincount(classes.flatten(), minlength=num_classes) / classes.numel()
