"""The Laplace evidence against closed forms and laplace-torch; its gains and its prior scales."""

import math
import warnings

import pytest
import torch
from helpers import NOISE
from helpers.closed_forms import (
    DELTA,
    correlated_regression,
    lifted_small_net,
    log_marginal,
    posterior,
)
from torch import nn

import pyro_bayesprune as bp
from pyro_bayesprune.inference import evidence

pytestmark = pytest.mark.usefixtures("double")


@pytest.mark.parametrize("at_mode", [True, False])
def test_the_full_evidence_of_a_linear_gaussian_model_is_its_marginal_likelihood(at_mode):
    model, x, y = correlated_regression()
    mean, _ = posterior(x, y)
    theta = mean if at_mode else torch.randn(6)  # quadratic: exact at any point, by the shift
    result = evidence.log_evidence(model, {"weight": theta[None]}, (x, y), structure="full")
    assert result.log == pytest.approx(log_marginal(x, y), abs=1e-8)
    assert (result.log_shift < 1e-8) == at_mode
    assert result.log_occam < 0


def test_the_diagonal_evidence_is_exact_for_orthogonal_inputs_and_a_lower_bound_for_others():
    model, x, y = correlated_regression()
    q, _ = torch.linalg.qr(x)
    for inputs, exact in ((q, True), (x, False)):
        weights = {"weight": posterior(inputs, y)[0][None]}
        result = evidence.log_evidence(model, weights, (inputs, y), structure="diagonal")
        truth = log_marginal(inputs, y)
        assert result.log <= truth + 1e-8
        assert (abs(result.log - truth) < 1e-8) == exact


def test_the_evidence_of_a_masked_network_is_that_of_the_nested_model():
    model, x, y = correlated_regression()
    keep = torch.tensor([True, False, True, True, False, True])
    theta = torch.zeros(6)
    theta[keep] = posterior(x[:, keep], y)[0]
    masks = {"weight": keep[None]}
    pruned = evidence.log_evidence(model, {"weight": theta[None]}, (x, y), masks, "full")
    assert pruned.log == pytest.approx(log_marginal(x[:, keep], y), abs=1e-8)
    whole = evidence.log_evidence(
        model, {"weight": posterior(x, y)[0][None]}, (x, y), structure="full"
    )
    assert whole.log == pytest.approx(log_marginal(x, y), abs=1e-8)
    assert pruned.log_occam > whole.log_occam


@pytest.mark.parametrize("kind", ["classification", "regression"])
@pytest.mark.parametrize(
    ("ours", "theirs", "net"),
    [("diagonal", "diag", "mlp"), ("full", "full", "mlp"), ("kron", "kron", "without biases")],
)
@pytest.mark.slow
def test_evidence_equals_that_of_laplace_torch(kind, ours, theirs, net):
    """Biases of ours are in their layer's Kronecker factor, theirs are blocks of their own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its dependencies' deprecations
        from laplace import Laplace

        model, weights, data = lifted_small_net(net, kind, n=50)
        noise = {} if kind == "classification" else {"sigma_noise": NOISE}
        oracle = Laplace(model.net, kind, "all", theirs, prior_precision=1 / 0.3**2, **noise)
        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data), 16)
        oracle.fit(loader)
        expected = oracle.log_marginal_likelihood().item()
    result = evidence.log_evidence(model, weights, data, structure=ours)
    assert result.log - result.log_shift == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("structure", ["diagonal", "full", "kron"])
def test_the_evidence_does_not_depend_on_the_units_of_the_weights(structure):
    """Inputs twice as large, weights and prior scale half as large: the same network."""
    torch.manual_seed(0)
    x, y = torch.randn(20, 3), torch.randint(0, 4, (20,))
    weight = torch.randn(4, 3)
    result = []
    for unit in (1.0, 2.0):
        net = nn.Linear(3, 4, bias=False)
        model = bp.BayesianModule(net, bp.priors.normal(0.3 / unit), 20)
        result.append(
            evidence.log_evidence(
                model, {"weight": weight / unit}, (x * unit, y), structure=structure
            )
        )
    for part in ("log_likelihood", "log_prior", "log_occam", "log_shift"):
        assert getattr(result[0], part) == pytest.approx(getattr(result[1], part), rel=1e-9)


@pytest.mark.parametrize(
    ("prior", "named"),
    [(bp.priors.laplace(0.1), "Laplace"), (bp.priors.student_t(3.0, 0.1), "StudentT")],
)
def test_priors_without_a_positive_curvature_are_refused(prior, named):
    model, weights, data = lifted_small_net("mlp")
    model.prior = prior
    with pytest.raises(ValueError, match=named):
        evidence.log_evidence(model, weights, data)


def test_single_gains_bound_a_groups_gain_from_below():
    model, x, y = correlated_regression()
    mean, precision = posterior(x, y)
    gains = evidence.occam_gains(model, {"weight": mean[None]}, (x, y))["weight"][0]
    covariance = torch.linalg.inv(precision)
    for group in ([0], [0, 3], [1, 2, 5], list(range(6))):
        exact = -(torch.logdet(covariance[group][:, group]) + len(group) * math.log(DELTA)) / 2
        assert 0 < gains[group].sum() <= exact + 1e-9
    colder = evidence.occam_gains(model, {"weight": mean[None]}, (x, y), temperature=10.0)
    assert (colder["weight"][0] < gains).all()


def test_dead_units_and_constant_inputs_have_nothing_to_gain():
    model, weights, (x, y) = lifted_small_net("mlp")
    weights = {**weights, "2.weight": weights["2.weight"].clone()}
    weights["2.weight"][:, :2] = 0  # units 0 and 1 reach no output
    x = x.index_fill(1, torch.tensor([3]), 0.0)
    gains = evidence.occam_gains(model, weights, (x, y))
    assert gains["0.weight"][:2].abs().max() < 1e-9
    assert gains["0.weight"][:, 3].abs().max() < 1e-9
    assert gains["0.weight"][2:, :3].min() > 1e-6


def test_the_scale_by_evidence_maximises_the_exact_evidence():
    model, x, y = correlated_regression()
    delta = 100.0  # far off
    for _ in range(200):  # alternate the exact mode and the step, to the fixed point
        model = bp.BayesianModule(model.net, bp.priors.normal(delta**-0.5), 30, bp.gaussian(NOISE))
        mode, _ = posterior(x, y, delta=delta)
        result = evidence.evidence_scales(model, {"weight": mode.view(1, -1)}, (x, y))
        delta = result["weight"].item() ** -2
    best = log_marginal(x, y, delta=delta)
    assert log_marginal(x, y, delta=1.02 * delta) < best > log_marginal(x, y, delta=0.98 * delta)


def test_a_parameter_that_the_data_say_nothing_of_keeps_its_scale():
    model = bp.BayesianModule(nn.Linear(3, 2), bp.priors.normal(0.4), 10)
    weights = {"weight": torch.zeros(2, 3), "bias": torch.ones(2)}
    result = evidence.evidence_scales(model, weights, (torch.zeros(10, 3), torch.zeros(10).long()))
    assert result["weight"].item() == pytest.approx(0.4)


def test_pruned_weights_do_not_shrink_the_scale():
    torch.manual_seed(0)
    x = torch.randn(500, 6)
    model = bp.BayesianModule(nn.Linear(6, 1), bp.priors.normal(1.0), 500, bp.gaussian(0.1))
    weights = {"weight": torch.tensor([[1.0, -1.0, 1.0, 0, 0, 0]]), "bias": torch.ones(1)}
    pruned = evidence.evidence_scales(
        model, weights, (x, x[:, :1]), {"weight": weights["weight"] != 0}
    )
    assert pruned["weight"].item() == pytest.approx(1.0, rel=1e-3)
    every = evidence.evidence_scales(model, weights, (x, x[:, :1]))
    assert every["weight"] == pytest.approx(0.5**0.5, rel=1e-3)
