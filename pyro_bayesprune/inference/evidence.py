"""Laplace's evidence with its Occam factor, and what it says of removing weights.

The log joint around a point θ is approximated as in `curvature`, by its gradient g and the matrix
P = GGN + diag(δ). Integrating over the weights gives the log evidence,

    log p(D) ≈ log p(D|θ) - ½ θᵀdiag(δ)θ + ½ Σ ln δ_i - ½ ln|P| + ½ gᵀP⁻¹g,

(MacKay, 1992; Immer et al., 2021). Exact at any θ for a network that is linear in its weights,
under a gaussian likelihood, with the full matrix; else an approximation. The last term vanishes at
a mode.

A pruned weight is no parameter of the pruned network: the sums run over the kept weights and P
keeps their rows and columns. The parts are pure numbers, whatever the units of the weights: the
prior's normalisation and the posterior's volume only ever meet in the ratio δ_i / P_ii.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pyro_bayesprune._utils.checks import check_finite
from pyro_bayesprune.data.dataset import Dataset, Pair, train_part
from pyro_bayesprune.inference.bayes_factor import BayesFactor
from pyro_bayesprune.inference.curvature import (
    flat,
    ggn_diagonal,
    ggn_full,
    ggn_kron,
    gradient,
    prior_precision,
)
from pyro_bayesprune.inference.layer_curvature import has_closed_form
from pyro_bayesprune.inference.log_joint import log_joint
from pyro_bayesprune.models.module import BayesianModule, Weights

Structure = Literal["diagonal", "full", "kron"]


@dataclass(frozen=True)
class Evidence:
    """Laplace's log p(D) in nats, as its parts; see the module for the formula.

    Args:
        log_likelihood: log p(D|θ) at the point.
        log_prior: -½ θᵀdiag(δ)θ, the log prior density relative to its value at zero.
        log_occam: ½ Σ ln δ - ½ ln|P| ≤ 0, the log Occam factor: the share of the prior's volume
            that the posterior fills.
        log_shift: ½ gᵀP⁻¹g, what lies between the point and the mode of the quadratic.
        gradient_norm: ‖g‖ over the kept weights; zero at a mode.
    """

    log_likelihood: float
    log_prior: float
    log_occam: float
    log_shift: float
    gradient_norm: float

    @property
    def log(self) -> float:
        """Log evidence: the sum of the parts, nats."""
        return self.log_likelihood + self.log_prior + self.log_occam + self.log_shift


def log_evidence(
    model: BayesianModule,
    weights: Mapping[str, Tensor],
    data: Dataset | Pair,
    masks: Mapping[str, Tensor] | None = None,
    structure: Structure = "diagonal",
    *,
    shift: bool = True,
) -> Evidence:
    """Return Laplace's approximation of log p(D) at a point, in nats.

    Args:
        model: a lifted network with independent zero-mean Normal priors.
        weights: the point, best a mode; pruned weights are taken as zero.
        data: all N training examples.
        masks: weights that are False are no parameters of the network.
        structure: ``"diagonal"`` ignores the posterior's correlations and so overstates ½ ln|P|
            (Hadamard): a lower bound of the full one's evidence at a mode. ``"full"`` has them;
            small networks only. ``"kron"``: Kronecker factors, for Linear and Conv2d layers, no
            masks, and one σ for each parameter.
        shift: include ½ gᵀP⁻¹g. Exact with the full matrix where the log joint is quadratic; the
            diagonal may overstate it, so leave it out where weights are correlated and ‖g‖ large.
            ``"kron"`` has none.

    Raises:
        ValueError: for other priors or likelihoods, and where ``"kron"`` does not apply.
    """
    alive = _kept(model, masks)
    point = {n: w * masks[n] if masks and n in masks else w for n, w in weights.items()}
    delta = flat(model, prior_precision(model, point))[alive]
    theta = flat(model, point)[alive]
    g = flat(model, gradient(model, point, data))[alive]
    moved = torch.zeros_like(g)
    if structure == "kron":
        if not alive.all():
            raise ValueError("structure='kron' has no masks: Kronecker factors cannot drop weights")
        log_occam = _kron_log_occam(model, point, data)
    elif structure == "full":
        factor = torch.linalg.cholesky(ggn_full(model, point, data)[alive][:, alive] + delta.diag())
        log_occam = (delta.log() / 2 - factor.diagonal().log()).sum().item()
        moved = torch.cholesky_solve(g[:, None], factor)[:, 0]
    else:
        precision = flat(model, ggn_diagonal(model, point, data))[alive] + delta
        log_occam, moved = (delta / precision).log().sum().item() / 2, g / precision
    return Evidence(
        log_likelihood=log_joint(model, point, data).log_likelihood,
        log_prior=-(delta * theta.square()).sum().item() / 2,
        log_occam=log_occam,
        log_shift=(g @ moved).item() / 2 if shift else 0.0,
        gradient_norm=g.norm().item(),
    )


def _kept(model: BayesianModule, masks: Mapping[str, Tensor] | None) -> Tensor:
    """Return the masks of all parameters as one bool vector (W,); those without one are kept."""
    masks = masks or {}
    named = dict(model.net.named_parameters())
    every = {n: masks.get(n, torch.ones_like(p, dtype=torch.bool)) for n, p in named.items()}
    return flat(model, every).bool()


def _kron_log_occam(
    model: BayesianModule, point: Mapping[str, Tensor], data: Dataset | Pair
) -> float:
    """-½ Σ ln(1 + λ/δ) over the eigenvalues λ of the blocks B ⊗ A: products of A's and B's."""
    delta = _precision_by_parameter(model, point)
    total = 0.0
    for name, (inputs, outputs) in ggn_kron(model, point, data).items():
        values = torch.outer(*(torch.linalg.eigvalsh(f.double()) for f in (outputs, inputs)))
        total -= torch.log1p(values.clamp(min=0) / delta[name]).sum().item() / 2
    return total


def _precision_by_parameter(
    model: BayesianModule, weights: Mapping[str, Tensor]
) -> dict[str, float]:
    found = {n: d.unique() for n, d in prior_precision(model, weights).items()}
    for name, values in found.items():
        if len(values) > 1:
            raise ValueError(f"Kronecker factors need one σ for all weights of {name!r}")
    return {n: values.item() for n, values in found.items()}


def marginal_precision(
    model: BayesianModule,
    weights: Mapping[str, Tensor],
    data: Dataset | Pair,
    *,
    temperature: float = 1.0,
) -> Weights:
    """Return an estimate of Λ_i = 1/[P⁻¹]_ii, the marginal posterior precisions, by parameter.

    What the data say of a weight when the others may adjust: δ_i ≤ Λ_i ≤ P_ii. Of P's Kronecker
    factors, with B = U diag(β) Uᵀ and A = V diag(α) Vᵀ,

        1/Λ_oi = Σ_kl U_ok² V_il² / (β_k α_l + δ).

    Exact where they are. Networks without Kronecker factors get P_ii, which is exact for a diagonal
    P only. Why it matters: for a network of 932,362 weights after three epochs on MNIST,
    Σ ½ ln(Λ_i/δ) was 12,000 nats and Σ ½ ln(P_ii/δ), which counts what correlated weights share
    once for each of them, 43,000.

    Args:
        model: the lifted network.
        weights: the point.
        data: all training examples or a random sample of them.
        temperature: divides the log likelihood.
    """
    x, _ = train_part(data)
    if not has_closed_form(model, weights, x):
        delta = prior_precision(model, weights)
        ggn = ggn_diagonal(model, weights, data)
        return {n: ggn[n] / temperature + delta[n] for n in ggn}
    precision = _precision_by_parameter(model, weights)
    found = {}
    for name, (inputs, outputs) in ggn_kron(model, weights, data).items():
        # In float64: with many dead units LAPACK's float32 solver may fail to converge.
        alpha, v = torch.linalg.eigh(inputs.double())
        beta, u = torch.linalg.eigh(outputs.double() / temperature)
        inverse = 1 / (torch.outer(beta.clamp(min=0), alpha.clamp(min=0)) + precision[name])
        variance = (u.square() @ inverse @ v.square().T).view(weights[name].shape)
        found[name] = variance.reciprocal()
    return found


def occam_gains(
    model: BayesianModule,
    weights: Mapping[str, Tensor],
    data: Dataset | Pair,
    *,
    temperature: float = 1.0,
) -> Weights:
    """Return ½ ln(Λ_i/δ_i) ≥ 0: what the log Occam factor gains by removing a weight; nats.

    The Savage-Dickey log Bayes factor of a group G holds ½ ln|Λ_G| - ½ Σ ln δ_i with
    Λ_G = (Σ_GG)⁻¹. By Hadamard's inequality ``|Σ_GG| ≤ Π Σ_ii``, so that the sum of these single
    gains over G is a lower bound of the group's gain: a sum may be compared with a threshold. (With
    P_ii in the place of Λ_i it would be an upper bound.)
    """
    precision = marginal_precision(model, weights, data, temperature=temperature)
    delta = prior_precision(model, weights)
    for name, values in precision.items():
        check_finite(f"posterior precisions of {name!r}", values)  # NaN would refuse, silently
    return {n: (precision[n] / delta[n]).log() / 2 for n in precision}


def evidence_scales(
    model: BayesianModule,
    weights: Mapping[str, Tensor],
    data: Dataset | Pair,
    masks: Mapping[str, Tensor] | None = None,
    *,
    temperature: float = 1.0,
) -> dict[str, Tensor]:
    """Return each parameter's σ after one step towards the largest Laplace evidence, by parameter.

    The evidence as a function of δ = 1/σ², of n kept weights θ at a mode, is largest where its
    derivative n/2δ - ½ tr P⁻¹ - ½ ‖θ‖² vanishes, hence the fixed point (MacKay, 1992)

        σ² = ‖θ‖² / γ,    γ = n - δ tr P⁻¹ = Σ (1 - δ/Λ_i),

    γ the number of weights that the data determine, Λ_i by `marginal_precision`. Its fixed points
    are exact where the Kronecker factors are, for a linear model. A parameter that the data say
    nothing of (γ = 0) or that is zero keeps its σ.

    Args:
        model: a lifted network whose priors are zero-mean Normal, one σ for each parameter.
        weights: a mode.
        data: all training examples or a random sample of them.
        masks: pruned weights do not count.
        temperature: divides the log likelihood.
    """
    precision = marginal_precision(model, weights, data, temperature=temperature)
    delta, found = prior_precision(model, weights), {}
    for name, values in precision.items():
        keep = masks[name] if masks and name in masks else torch.ones_like(values, dtype=torch.bool)
        determined = (1 - delta[name] / values)[keep].sum()
        squares = weights[name].detach().double()[keep].square().sum()
        fine = determined > 0 and squares > 0
        variance = squares / determined if fine else 1 / delta[name].flatten()[0]
        found[name] = variance.sqrt()
    return found


def laplace_bayes_factor(pruned: Evidence, unpruned: Evidence, num_data: int) -> BayesFactor:
    """Return the log Bayes factor of kind ``laplace``, pruned over unpruned, from two evidences.

    A ratio of (approximate) marginal likelihoods. Right after zeroing, the pruned network is not at
    a mode: re-optimise it first, or leave its ``log_shift`` in, and look at ``gradient_norm``. The
    shifts count with the log likelihoods: they stand for what is still to be won there.
    """
    return BayesFactor(
        pruned.log_likelihood + pruned.log_shift - unpruned.log_likelihood - unpruned.log_shift,
        pruned.log_prior - unpruned.log_prior,
        num_data,
        kind="laplace",
        log_occam_ratio=pruned.log_occam - unpruned.log_occam,
    )
