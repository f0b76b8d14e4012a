"""Predictions under shifted inputs: rotation, noise, and inputs from elsewhere."""

from collections.abc import Callable, Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor

from pyro_bayesprune._utils.random import random_stream
from pyro_bayesprune.diagnostics.calibration import predictive_entropy, scores

Predict = Callable[[Tensor], Tensor]
ANGLES = (0.0, 15.0, 30.0, 45.0, 60.0)
NOISES = (0.0, 0.25, 0.5, 1.0, 2.0)


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
