"""Laplace's evidence with its Occam factor, and the gains by removing weights.

The log joint around a point θ is approximated as in `curvature`, by its gradient g and the matrix
P = GGN + diag(δ). Integrating over the weights gives the log evidence (MacKay, 1992; Immer et al.,
2021),

    log p(D) ≈ log p(D|θ) - ½ θᵀdiag(δ)θ + ½ Σ ln δ_i - ½ ln|P| + ½ gᵀP⁻¹g.

With the full matrix it is exact at any θ for a network that is linear in its weights with a
gaussian likelihood; otherwise it is an approximation. The last term is zero at a mode. A
temperature divides the log likelihood, its gradient and the GGN.

A pruned weight is no parameter of the pruned network: the sums run over the surviving weights, and
P has only their rows and columns. All parts are independent of the units of the weights, because
the prior's normalisation and the posterior's volume occur only in the ratio δ_i / P_ii.

Each structure of P ignores some correlations. ``"diagonal"`` ignores all of them: it overstates
½ ln|P| (Hadamard's inequality) and therefore understates the evidence at a mode. ``"kron"`` ignores
correlations between layers, which also overstates ½ ln|P| (Fischer's inequality), and within a
layer those that `blocks` names, which may err in either direction. ``"full"`` ignores none.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pyro_bayesprune._utils.checks import check_finite
from pyro_bayesprune.data.loading import Data
from pyro_bayesprune.inference.blocks import kept_weights, layer_blocks
from pyro_bayesprune.inference.curvature import (
    flat,
    ggn_diagonal,
    ggn_full,
    prior_precision,
)
from pyro_bayesprune.inference.log_joint import batches_at, log_joint
from pyro_bayesprune.inference.mode import log_joint_gradient, warn_if_far
from pyro_bayesprune.models.module import BayesianModule, Weights

Structure = Literal["diagonal", "full", "kron"]


@dataclass(frozen=True)
class Evidence:
    """Laplace's log p(D) in nats, as its parts; the module has the formula.

    Args:
        log_likelihood: log p(D|θ) at the point.
        log_prior: -½ θᵀdiag(δ)θ, the log prior density relative to its value at zero.
        log_occam: ½ Σ ln δ - ½ ln|P| ≤ 0, the log Occam factor: the log ratio of the posterior's
            volume to the prior's.
        log_shift: ½ gᵀP⁻¹g, the difference of the quadratic between its mode and the point. The
            diagonal may overstate it if weights are correlated and g is large. ``"kron"`` has none.
    """

    log_likelihood: float
    log_prior: float
    log_occam: float
    log_shift: float

    @property
    def log(self) -> float:
        """Log evidence: the sum of the parts, nats."""
        return self.log_likelihood + self.log_prior + self.log_occam + self.log_shift


def log_evidence(
    model: BayesianModule,
    weights: Mapping[str, Tensor],
    data: Data,
    masks: Mapping[str, Tensor] | None = None,
    structure: Structure = "diagonal",
    *,
    temperature: float = 1.0,
) -> Evidence:
    """Return Laplace's approximation of log p(D) at a point, in nats.

    Hyperparameters that the prior or the likelihood samples, such as scales, have the values of the
    point: the evidence is conditional on them and contains neither their prior nor their volume.

    Args:
        model: a lifted network with independent zero-mean Normal priors.
        weights: the point, ideally a mode; pruned weights count as zero.
        data: all N training examples.
        masks: masks of pruned weights, which are no parameters of the network.
        structure: ``"diagonal"``, ``"kron"`` (blocks by layer, see `blocks`), or ``"full"``, which
            is for small networks.
        temperature: divides the log likelihood.

    Raises:
        ValueError: for other priors or likelihoods, and where ``"kron"`` does not apply.

    Warns:
        UserWarning: if the point is far from a mode, see `mode.warn_if_far`.
    """
    keep_by_name, data = kept_weights(model, masks), batches_at(data, weights)
    keep = flat(model, keep_by_name).bool()
    point = {n: w * masks[n] if masks and n in masks else w for n, w in weights.items()}
    precisions = prior_precision(model, point)
    delta, theta = flat(model, precisions)[keep], flat(model, point)[keep]
    g = flat(model, log_joint_gradient(model, point, data, temperature=temperature))[keep]
    step = torch.zeros_like(g)
    if structure == "kron":
        blocks = layer_blocks(model, point, data, temperature=temperature)
        log_occam = sum(b.log_occam(b.joined(precisions), b.joined(keep_by_name)) for b in blocks)
        diagonals = [b.separated(b.diagonal(b.joined(precisions)), point) for b in blocks]
        precision = flat(model, {n: v for by_name in diagonals for n, v in by_name.items()})[keep]
    elif structure == "full":
        ggn = ggn_full(model, point, data)[keep][:, keep] / temperature
        factor = torch.linalg.cholesky(ggn + delta.diag())
        log_occam = (delta.log() / 2 - factor.diagonal().log()).sum().item()
        step = torch.cholesky_solve(g[:, None], factor)[:, 0]
        precision = ggn.diagonal() + delta
    else:
        precision = flat(model, ggn_diagonal(model, point, data))[keep] / temperature + delta
        log_occam, step = (delta / precision).log().sum().item() / 2, g / precision
    warn_if_far("Laplace's evidence", g, precision)
    return Evidence(
        log_likelihood=log_joint(model, point, data, temperature=temperature).log_likelihood,
        log_prior=-(delta * theta.square()).sum().item() / 2,
        log_occam=log_occam,
        log_shift=(g @ step).item() / 2,
    )


def marginal_precision(
    model: BayesianModule,
    weights: Mapping[str, Tensor],
    data: Data,
    masks: Mapping[str, Tensor] | None = None,
    *,
    temperature: float = 1.0,
    sites: Collection[str] | None = None,
) -> Weights:
    """Return an estimate of Λ_i = 1/[P_KK⁻¹]_ii, the marginal posterior precisions, by parameter.

    Λ_i is the precision of a weight when the other weights of its layer may adjust, so that
    δ_i ≤ Λ_i ≤ P_ii. It is computed from `layer_blocks`. With Kronecker factors
    B = U diag(β) Uᵀ and A = V diag(α) Vᵀ over all weights of a layer and one δ, it is

        1/Λ_oi = Σ_kl U_ok² V_il² / (β_k α_l + δ).

    Args:
        model: the lifted network.
        weights: the point.
        data: all training examples or a random sample of them.
        masks: masks of pruned weights, which are no parameters. Their own Λ is δ.
        temperature: divides the log likelihood.
        sites: parameters whose layers are required, by default all.

    Raises:
        ValueError: for a layer for which `layer_blocks` has no block.
    """
    delta, keep = prior_precision(model, weights), kept_weights(model, masks)
    precisions: Weights = {}
    for block in layer_blocks(model, weights, data, sites, temperature=temperature):
        variance = block.variance(block.joined(delta), block.joined(keep))
        precisions |= block.separated(variance.reciprocal(), weights)
    for name, values in precisions.items():
        check_finite(
            f"posterior precisions of {name!r}", values
        )  # NaN would silently prevent pruning
    return precisions


def occam_gains(
    model: BayesianModule,
    weights: Mapping[str, Tensor],
    data: Data,
    *,
    temperature: float = 1.0,
    sites: Collection[str] | None = None,
) -> Weights:
    """Return the gain ½ ln(Λ_i/δ_i) ≥ 0 of the log Occam factor by removing each weight, nats.

    The Savage-Dickey log Bayes factor of a group G contains ½ ln|Λ_G| - ½ Σ_G ln δ. The sum of the
    single gains estimates this term, and is no bound. Within a layer the sum is too small
    (Hadamard's inequality; weights that are pruned already count as if they could adjust), and
    without the correlations between layers it is too large. For a small network it was 0.7 to 1.7
    times the exact gain (reports/evidence).

    Args:
        model: the lifted network.
        weights: the point.
        data: all training examples or a random sample of them.
        temperature: divides the log likelihood.
        sites: parameters whose gains are required, by default all.

    Raises:
        ValueError: for a layer for which `layer_blocks` has no block.
    """
    precision = marginal_precision(model, weights, data, temperature=temperature, sites=sites)
    delta = prior_precision(model, weights)
    return {n: (precision[n] / delta[n]).log() / 2 for n in precision}


def evidence_scales(
    model: BayesianModule,
    weights: Mapping[str, Tensor],
    data: Data,
    masks: Mapping[str, Tensor] | None = None,
    *,
    temperature: float = 1.0,
) -> dict[str, Tensor]:
    """Return each parameter's σ after one step towards the largest Laplace evidence, by parameter.

    For n surviving weights θ at a mode, the evidence as a function of δ = 1/σ² is largest where its
    derivative n/2δ - ½ tr P⁻¹ - ½ ‖θ‖² is zero. This gives the fixed point (MacKay, 1992)

        σ² = ‖θ‖² / γ,    γ = n - δ tr P⁻¹ = Σ (1 - δ/Λ_i),

    where γ is the number of weights that the data determine, with Λ_i by `marginal_precision`. The
    fixed points are exact for a linear model if the blocks are. A parameter that the data do not
    determine (γ = 0), or that is zero, retains its σ.

    Args:
        model: a lifted network whose priors are zero-mean Normal, one σ for each parameter.
        weights: a mode.
        data: all training examples or a random sample of them.
        masks: masks of pruned weights, which do not count.
        temperature: divides the log likelihood.
    """
    precision = marginal_precision(model, weights, data, masks, temperature=temperature)
    delta, masks, scales = prior_precision(model, weights), kept_weights(model, masks), {}
    for name, values in precision.items():
        keep = masks[name]
        determined = (1 - delta[name] / values)[keep].sum()
        squares = weights[name].detach().double()[keep].square().sum()
        defined = determined > 0 and squares > 0
        variance = squares / determined if defined else 1 / delta[name].flatten()[0]
        scales[name] = variance.sqrt()
    return scales
