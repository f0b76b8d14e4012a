"""Predictions for shifted inputs: rotation, noise, and inputs of another data set."""

from collections.abc import Callable, Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor

from pyro_bayesprune._utils.random import random_stream
from pyro_bayesprune.diagnostics.calibration import predictive_entropy, scores


def rotated(x: Tensor, degrees: float) -> Tensor:
    """Return images (n, c, h, w) rotated counter-clockwise, with corners of the lowest value."""
    from torchvision.transforms.functional import InterpolationMode, rotate

    fill = x.amin((0, 2, 3)).tolist()
    return rotate(x, degrees, InterpolationMode.BILINEAR, fill=fill)


def noised(x: Tensor, scale: float) -> Tensor:
    """Return inputs with added noise from N(0, scale²), in units of the normalised inputs."""
    noise = torch.randn(x.shape, generator=random_stream(0, "noise"), dtype=x.dtype, device="cpu")
    return x + scale * noise.to(x.device)


def shift_table(
    predictors: Mapping[str, Callable[[Tensor], Tensor]],
    x: Tensor,
    y: Tensor,
    *,
    angles: Sequence[float] = (0.0, 15.0, 30.0, 45.0, 60.0),
    noises: Sequence[float] = (0.0, 0.25, 0.5, 1.0, 2.0),
) -> pd.DataFrame:
    """Return `scores` under rotation and noise, a row for each predictor, shift and amount.

    A well-calibrated network becomes less certain as it becomes less accurate: its entropy rises
    and its ECE stays low.

    Args:
        predictors: functions from inputs to class probabilities, by name.
        x: test images (n, c, h, w). Inputs of another shape are shifted by noise only, and integer
            inputs, such as the words of a text, are not shifted: the table is empty.
        y: classes (n,).
        angles: rotations, degrees.
        noises: standard deviations, in units of the normalised inputs.
    """
    shifts = [("rotation", angle) for angle in angles] if x.dim() == 4 else []
    shifts += [("noise", scale) for scale in noises]
    if not x.is_floating_point():
        shifts = []
    rows = []
    for shift, amount in shifts:
        shifted = (rotated if shift == "rotation" else noised)(x, amount) if amount else x
        for name, predict in predictors.items():
            row = {"network": name, "shift": shift, "amount": amount}
            rows.append(row | scores(predict(shifted), y))
    return pd.DataFrame(rows)


def out_of_distribution_auroc(inside: Tensor, outside: Tensor) -> float:
    """Return the AUROC of predictive entropy for the detection of inputs from another data set.

    1: the entropy of each foreign input is higher than that of each test input. 0.5: the entropy
    contains no information.

    Args:
        inside: class probabilities for test inputs (n, classes).
        outside: class probabilities for foreign inputs (m, classes).
    """
    from sklearn.metrics import roc_auc_score

    entropies = torch.cat([predictive_entropy(inside), predictive_entropy(outside)])
    foreign = [0] * len(inside) + [1] * len(outside)
    return float(roc_auc_score(foreign, entropies.cpu().numpy()))
