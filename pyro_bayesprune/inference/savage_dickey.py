"""Savage-Dickey Bayes factors in favour of removing weights, under a Gaussian posterior."""

import torch
from torch import Tensor


def savage_dickey(theta: Tensor, precision: Tensor, delta: Tensor) -> Tensor:
    """Return log Bayes factors in favour of removing each weight alone, nats, elementwise.

    The network without weight i is the network with θ_i = 0, and the priors of the other weights
    agree. The ratio of the marginal likelihoods therefore equals the ratio of posterior to prior
    density at zero (Dickey, 1971). With a Gaussian marginal posterior N(θ_i, 1/Λ_i) and the prior
    N(0, 1/δ_i):

        log BF_i = ln N(0; θ_i, 1/Λ_i) - ln N(0; 0, 1/δ_i) = ½ ln(Λ_i / δ_i) - ½ Λ_i θ_i².

    This is exact for a Gaussian posterior. The log factors of several weights may be added only if
    the posterior's precision is diagonal; otherwise use `savage_dickey_group`.

    Args:
        theta: posterior means.
        precision: *marginal* posterior precisions Λ_i = 1/[P⁻¹]_ii (P_ii only where P is diagonal).
        delta: prior precisions.
    """
    return (precision / delta).log() / 2 - precision * theta.square() / 2


def savage_dickey_group(theta: Tensor, covariance: Tensor, delta: Tensor) -> float:
    """Return the log Bayes factor in favour of removing a group of m weights together, nats.

    With the group's marginal posterior N(θ, Σ) and Λ = Σ⁻¹ it is

        ½ ln|Λ| - ½ Σ ln δ_i - ½ θᵀΛθ.

    Args:
        theta: posterior means (m,).
        covariance: the group's block of the posterior covariance P⁻¹ (m, m).
        delta: prior precisions (m,).
    """
    factor = torch.linalg.cholesky(covariance)
    white = torch.linalg.solve_triangular(factor, theta[:, None], upper=False)
    log_det = -2 * factor.diagonal().log().sum()
    return ((log_det - delta.log().sum() - white.square().sum()) / 2).item()
