"""The column-wise update of SparseGPT (Frantar & Alistarh, 2023), as a reference for reports.

It prunes a trained network without retraining, without a prior and without a Bayes factor. The
layers follow in order. The inputs of each layer are those of the network pruned so far.
"""

import torch
from torch import Tensor

from pyro_bayesprune.inference.conditioning import Conditioning
from pyro_bayesprune.models.module import Masks, Weights

DAMPING = 0.01  # relative to the mean of the diagonal, as in the authors' code


def sparsegpt(conditioning: Conditioning, masks: Masks) -> Weights:
    """Return the weights after the update, for masks that were chosen before it.

    Args:
        conditioning: has the network, its weights, and the sample of training examples.
        masks: the masks (out, ...), True where a weight is kept. Biases do not change.
    """
    weights = dict(conditioning.weights)
    for name in conditioning.layer_order():
        inputs, _ = conditioning.input_moments(name, weights)
        columns = weights[name][0].numel()
        rows = weights[name].double().reshape(-1, columns)
        keep = masks[name].reshape(-1, columns)
        updated = updated_rows(rows, keep, inputs[:columns, :columns])
        weights[name] = updated.reshape(weights[name].shape).to(weights[name])
    return weights


def updated_rows(weights: Tensor, keep: Tensor, second_moment: Tensor) -> Tensor:
    """Return rows whose surviving weights to the right of a pruned weight make up for it.

    Args:
        weights: a layer's weights (rows, k), float64.
        keep: masks (rows, k).
        second_moment: of the layer's inputs (k, k).
    """
    damping = DAMPING * second_moment.diagonal().mean().clamp(min=1e-12)
    damped = second_moment + damping * torch.eye(len(second_moment), dtype=weights.dtype)
    factor = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    result = weights.clone()
    for column, row in enumerate(factor):
        error = result[:, column] * ~keep[:, column] / row[column]
        result[:, column:] -= torch.outer(error, row[column:])
    return result * keep
