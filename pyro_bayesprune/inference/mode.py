"""How near a point is to a mode of the log joint.

Training by minibatches ends near a mode, not at it: the weights are approximately MAP. Quantities
that expand the log joint around a mode are wrong far away from one.
"""

import math
import warnings
from collections.abc import Mapping

import torch
from pyro import poutine
from torch import Tensor

from pyro_bayesprune.data.loading import Data
from pyro_bayesprune.inference.curvature import CHUNK
from pyro_bayesprune.inference.log_joint import at_point, batches_at
from pyro_bayesprune.models.module import Model, Weights, evaluation_mode
from pyro_bayesprune.models.sites import in_data_plate, plate_scale, scored_sites, site_log_prob

FAR = 1.0  # posterior standard deviations, root mean square over the weights


def log_joint_gradient(
    model: Model, weights: Mapping[str, Tensor], data: Data, *, temperature: float = 1.0
) -> Weights:
    """Return the gradient of the log joint over all training examples, by site, float64.

    Args:
        model: any Pyro model with a plate ``data``; it is evaluated in evaluation mode.
        weights: a value for each latent site; a site that the model does not use has gradient zero.
        data: all N training examples.
        temperature: divides the log likelihood.
    """
    point = {n: w.detach().clone().requires_grad_() for n, w in weights.items()}
    total = {n: torch.zeros_like(w, dtype=torch.float64) for n, w in weights.items()}
    with evaluation_mode(model), torch.enable_grad():
        for i, chunk in enumerate(batches_at(data, weights).chunks(CHUNK)):
            trace = poutine.trace(at_point(model, point)).get_trace(*chunk)
            terms = []
            for site in scored_sites(trace):
                if in_data_plate(site):
                    terms.append(site_log_prob(site) / (plate_scale(site) * temperature))
                elif i == 0:
                    terms.append(site_log_prob(site))
            log_joint = torch.stack(terms).sum()
            gradients = torch.autograd.grad(
                log_joint, list(point.values()), allow_unused=True, materialize_grads=True
            )
            for name, part in zip(point, gradients, strict=True):
                total[name] += part.double()
    return total


def gradient_norm(
    model: Model,
    weights: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    data: Data,
    *,
    temperature: float = 1.0,
) -> float:
    """Return the norm of the log joint's gradient, divided by N.

    The gradient is taken with respect to the surviving weights. It is zero at a mode. The unit is
    nats per training example and per unit of the weights.
    """
    batches = batches_at(data, weights)
    gradient = log_joint_gradient(model, weights, batches, temperature=temperature)
    squares = [(g * masks.get(n, 1)).square().sum().item() for n, g in gradient.items()]
    return math.sqrt(sum(squares)) / batches.num_data


def warn_if_far(what: str, gradient: Tensor, precision: Tensor) -> None:
    """Warn if a point is farther from a mode than `FAR` posterior standard deviations.

    A Newton step with a diagonal precision P moves weight i by g_i/P_i, which is g_i/√P_i in
    standard deviations. The distance is the root mean square of these.

    Args:
        what: the quantity that assumes a mode.
        gradient: g, the gradient of the log joint (W,).
        precision: P, the diagonal of the posterior precision (W,).

    Warns:
        UserWarning: with the distance.
    """
    distance = (gradient.square() / precision).mean().sqrt().item()
    if distance > FAR:
        warnings.warn(
            f"{what} assumes a mode, but the weights are only approximately MAP: a Newton step "
            f"moves them by {distance:.1f} posterior standard deviations (root mean square; a "
            f"warning above {FAR:g}). Train for more epochs or with a smaller learning rate",
            UserWarning,
            stacklevel=4,
        )
