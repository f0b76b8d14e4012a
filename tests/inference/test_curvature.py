"""Curvature and evidence against closed forms and against laplace-torch."""

import math
import warnings

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pyro_bayesprune as bp
from pyro_bayesprune.inference import curvature, evidence, layer_curvature, savage_dickey
from pyro_bayesprune.pruning import criteria
from pyro_bayesprune.pruning.registry import CRITERIA, resolve

DELTA, NOISE = 4.0, 0.5


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def regression(n=30, p=6, seed=0):
    torch.manual_seed(seed)
    x = torch.randn(n, p) @ torch.randn(p, p)  # correlated
    y = x @ torch.randn(p, 1) + NOISE * torch.randn(n, 1)
    net = nn.Linear(p, 1, bias=False)
    prior = bp.priors.normal(DELTA**-0.5)
    return bp.BayesianModule(net, prior, n, bp.gaussian(NOISE)), x, y


def log_marginal(x: Tensor, y: Tensor, delta=DELTA, noise=NOISE) -> float:
    """ln N(y; 0, noise² I + XXᵀ/δ), the evidence of a linear model."""
    covariance = noise**2 * torch.eye(len(x)) + x @ x.T / delta
    return dist.MultivariateNormal(torch.zeros(len(x)), covariance).log_prob(y[:, 0]).item()


def posterior(x: Tensor, y: Tensor, delta=DELTA, noise=NOISE) -> tuple[Tensor, Tensor]:
    """Mean (p,) and precision (p, p) of a linear model's weights."""
    precision = x.T @ x / noise**2 + delta * torch.eye(x.shape[1])
    return torch.linalg.solve(precision, x.T @ y / noise**2)[:, 0], precision


def small_nets():
    return {
        "mlp": (nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), (4,)),
        "cnn": (
            nn.Sequential(
                nn.Conv2d(2, 3, 3, padding=1, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)
            ),
            (2, 4, 4),
        ),
        "positions": (
            nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(6, 3)),
            (2, 2),
        ),
        "norm": (
            nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)),
            (4,),
        ),
    }


def lifted(name, kind="classification", n=20):
    torch.manual_seed(0)
    net, shape = small_nets()[name]
    x = torch.randn(n, *shape)
    y = torch.randint(0, 3, (n,)) if kind == "classification" else torch.randn(n, 3)
    likelihood = bp.categorical if kind == "classification" else bp.gaussian(NOISE)
    model = bp.BayesianModule(net, bp.priors.normal(0.3), n, likelihood)
    return model, {k: p.detach().clone() for k, p in net.named_parameters()}, (x, y)


@pytest.mark.parametrize("at_mode", [True, False])
def test_the_full_evidence_of_a_linear_gaussian_model_is_its_marginal_likelihood(at_mode):
    model, x, y = regression()
    mean, _ = posterior(x, y)
    theta = mean if at_mode else torch.randn(6)  # quadratic: exact at any point, by the shift
    found = evidence.log_evidence(model, {"weight": theta[None]}, (x, y), structure="full")
    assert found.log == pytest.approx(log_marginal(x, y), abs=1e-8)
    assert (found.gradient_norm < 1e-8) == at_mode
    assert found.log_occam < 0


def test_the_diagonal_evidence_is_exact_for_orthogonal_inputs_and_a_lower_bound_for_others():
    model, x, y = regression()
    q, _ = torch.linalg.qr(x)
    for inputs, exact in ((q, True), (x, False)):
        weights = {"weight": posterior(inputs, y)[0][None]}
        found = evidence.log_evidence(model, weights, (inputs, y), structure="diagonal")
        truth = log_marginal(inputs, y)
        assert found.log <= truth + 1e-8
        assert (abs(found.log - truth) < 1e-8) == exact


def test_the_evidence_of_a_masked_network_is_that_of_the_nested_model():
    model, x, y = regression()
    keep = torch.tensor([True, False, True, True, False, True])
    theta = torch.zeros(6)
    theta[keep] = posterior(x[:, keep], y)[0]
    masks = {"weight": keep[None]}
    pruned = evidence.log_evidence(model, {"weight": theta[None]}, (x, y), masks, "full")
    assert pruned.log == pytest.approx(log_marginal(x[:, keep], y), abs=1e-8)
    whole = evidence.log_evidence(
        model, {"weight": posterior(x, y)[0][None]}, (x, y), structure="full"
    )
    factor = evidence.laplace_bayes_factor(pruned, whole, len(x))
    assert factor.kind == "laplace"
    assert factor.log == pytest.approx(log_marginal(x[:, keep], y) - log_marginal(x, y), abs=1e-8)
    assert factor.log_occam_ratio > 0


def test_savage_dickey_is_the_ratio_of_exact_marginal_likelihoods():
    _, x, y = regression()
    mean, precision = posterior(x, y)
    covariance = torch.linalg.inv(precision)
    delta = torch.full((6,), DELTA)
    single = savage_dickey.savage_dickey(mean, 1 / covariance.diagonal(), delta)
    for i in range(6):
        others = [j for j in range(6) if j != i]
        truth = log_marginal(x[:, others], y) - log_marginal(x, y)
        assert single[i].item() == pytest.approx(truth, abs=1e-8)
    for group in ([0, 3], [1, 2, 5], list(range(6))):
        others = [j for j in range(6) if j not in group]
        truth = log_marginal(x[:, others], y) - log_marginal(x, y)
        block = covariance[group][:, group]
        found = savage_dickey.savage_dickey_group(mean[group], block, delta[group])
        assert found == pytest.approx(truth, abs=1e-8)
        assert found != pytest.approx(single[group].sum().item(), abs=0.1) or len(group) == 1


def recovered(seed: int) -> float:
    """F1 of the support found by removing weights one by one, refitting after each."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(200, 100, generator=generator)
    truth = torch.zeros(100)
    truth[:10] = torch.randint(0, 2, (10,), generator=generator) * 2.0 - 1
    y = (x @ truth + torch.randn(200, generator=generator))[:, None]
    alive = list(range(100))
    while alive:
        mean, precision = posterior(x[:, alive], y, delta=0.1, noise=1.0)
        marginal = 1 / torch.linalg.inv(precision).diagonal()
        scores = savage_dickey.savage_dickey(mean, marginal, torch.tensor(0.1))
        if scores.max() <= 0:
            break
        alive.pop(int(scores.argmax()))
    hits = sum(i < 10 for i in alive)
    return 2 * hits / (len(alive) + 10)


def test_greedy_savage_dickey_recovers_a_sparse_support():
    assert torch.tensor([recovered(seed) for seed in range(20)]).median() >= 0.9


@pytest.mark.parametrize("kind", ["classification", "regression"])
@pytest.mark.parametrize("name", small_nets())
def test_closed_form_and_full_matrix_have_one_diagonal(name, kind):
    model, weights, data = lifted(name, kind)
    assert layer_curvature.has_closed_form(model, weights, data[0]) == (name != "norm")
    diagonal = curvature.flat(model, curvature.ggn_diagonal(model, weights, data, chunk_size=7))
    full = curvature.ggn_full(model, weights, data)
    torch.testing.assert_close(diagonal, full.diagonal())
    assert torch.linalg.eigvalsh(full).min() > -1e-8


def test_the_full_matrix_is_the_hessian_of_a_linear_networks_negative_log_likelihood():
    torch.manual_seed(0)
    net = nn.Linear(3, 4)
    x, y = torch.randn(9, 3), torch.randint(0, 4, (9,))
    model = bp.BayesianModule(net, bp.priors.normal(1.0), 9)
    weights = {n: p.detach() for n, p in net.named_parameters()}

    def loss(weight, bias):
        return -model.likelihood(x @ weight.T + bias).log_prob(y).sum()

    blocks = torch.autograd.functional.hessian(loss, tuple(weights.values()))
    rows = [
        torch.cat([b.reshape(a, -1) for b in row], 1)
        for a, row in zip((12, 4), blocks, strict=True)
    ]
    torch.testing.assert_close(curvature.ggn_full(model, weights, (x, y)), torch.cat(rows))


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_random_signs_estimate_the_diagonal_without_bias(name):
    model, weights, data = lifted(name)
    exact = curvature.flat(model, curvature.ggn_diagonal(model, weights, data))
    generator = torch.Generator().manual_seed(0)
    errors = []
    for draws in (50, 5000):
        found = curvature.ggn_diagonal(model, weights, data, draws=draws, generator=generator)
        errors.append((curvature.flat(model, found) - exact).norm() / exact.norm())
    assert errors[1] < 0.02 and errors[1] < errors[0] / 4  # 10 is expected


def test_a_random_half_of_the_examples_scales_to_all():
    model, weights, (x, y) = lifted("mlp")
    halves = [curvature.ggn_full(model, weights, (x[i::2], y[i::2])) for i in (0, 1)]
    torch.testing.assert_close(sum(halves) / 2, curvature.ggn_full(model, weights, (x, y)))


@pytest.mark.parametrize("kind", ["classification", "regression"])
@pytest.mark.parametrize(
    ("ours", "theirs"), [("diagonal", "diag"), ("full", "full"), ("kron", "kron")]
)
@pytest.mark.slow
def test_evidence_equals_that_of_laplace_torch(kind, ours, theirs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its dependencies' deprecations
        from laplace import Laplace

        model, weights, data = lifted("mlp", kind, n=50)
        noise = {} if kind == "classification" else {"sigma_noise": NOISE}
        oracle = Laplace(model.net, kind, "all", theirs, prior_precision=1 / 0.3**2, **noise)
        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data), 16)
        oracle.fit(loader)
        expected = oracle.log_marginal_likelihood().item()
    found = evidence.log_evidence(model, weights, data, structure=ours, shift=False)
    assert found.log == pytest.approx(expected, rel=1e-4)


def test_kronecker_factors_of_one_linear_layer_are_exact_and_so_are_its_marginals():
    torch.manual_seed(0)
    net = nn.Linear(3, 4, bias=False)
    data = torch.randn(20, 3), torch.randn(20, 4)
    model = bp.BayesianModule(net, bp.priors.normal(0.3), 20, bp.gaussian(NOISE))
    weights = {"weight": net.weight.detach()}
    a, b = curvature.ggn_kron(model, weights, data)["weight"]
    full = curvature.ggn_full(model, weights, data)
    torch.testing.assert_close(torch.kron(b, a), full)
    exact = 1 / torch.linalg.inv(full + torch.eye(12) / 0.09).diagonal()
    found = evidence.marginal_precision(model, weights, data)
    torch.testing.assert_close(found["weight"].flatten(), exact)


def test_single_gains_bound_a_groups_gain_from_below():
    model, x, y = regression()
    mean, precision = posterior(x, y)
    gains = evidence.occam_gains(model, {"weight": mean[None]}, (x, y))["weight"][0]
    covariance = torch.linalg.inv(precision)
    for group in ([0], [0, 3], [1, 2, 5], list(range(6))):
        exact = -(torch.logdet(covariance[group][:, group]) + len(group) * math.log(DELTA)) / 2
        assert 0 < gains[group].sum() <= exact + 1e-9
    colder = evidence.occam_gains(model, {"weight": mean[None]}, (x, y), temperature=10.0)
    assert (colder["weight"][0] < gains).all()


@pytest.mark.parametrize("structure", ["diagonal", "full", "kron"])
def test_the_evidence_does_not_depend_on_the_units_of_the_weights(structure):
    """Inputs twice as large, weights and prior scale half as large: the same network."""
    torch.manual_seed(0)
    x, y = torch.randn(20, 3), torch.randint(0, 4, (20,))
    weight = torch.randn(4, 3)
    found = []
    for unit in (1.0, 2.0):
        net = nn.Linear(3, 4, bias=False)
        model = bp.BayesianModule(net, bp.priors.normal(0.3 / unit), 20)
        found.append(
            evidence.log_evidence(
                model, {"weight": weight / unit}, (x * unit, y), structure=structure
            )
        )
    for part in ("log_likelihood", "log_prior", "log_occam", "log_shift"):
        assert getattr(found[0], part) == pytest.approx(getattr(found[1], part), rel=1e-9)


@pytest.mark.parametrize(
    ("prior", "named"),
    [(bp.priors.laplace(0.1), "Laplace"), (bp.priors.student_t(3.0, 0.1), "StudentT")],
)
def test_priors_without_a_positive_curvature_are_refused(prior, named):
    model, weights, data = lifted("mlp")
    model.prior = prior
    with pytest.raises(ValueError, match=named):
        evidence.log_evidence(model, weights, data)


def test_other_likelihoods_and_models_are_refused():
    model, weights, data = lifted("mlp")
    model.likelihood = lambda outputs: dist.Categorical(logits=2 * outputs)
    with pytest.raises(ValueError, match="likelihood"):
        curvature.ggn_diagonal(model, weights, data)
    with pytest.raises(ValueError, match="BayesianModule"):
        curvature.ggn_diagonal(lambda x, y: None, weights, data)


def test_a_sampled_layer_scale_is_read_where_it_is():
    model, weights, _ = lifted("mlp")
    model.prior = bp.priors.layer_scale(0.3)
    scales = {"0.weight_scale": torch.tensor(0.5), "2.weight_scale": torch.tensor(0.1)}
    found = curvature.prior_precision(model, {**weights, **scales})
    assert found["0.weight"].unique().item() == pytest.approx(4)
    assert found["2.weight"].unique().item() == pytest.approx(100)
    assert found["0.bias"].unique().item() == pytest.approx(1 / 0.09)


@pytest.mark.parametrize("name", ["fisher", "opd", "snr", "savage_dickey"])
def test_curvature_criteria_rank_an_unused_weight_last_and_a_large_one_first(name):
    """With orthonormal inputs all precisions agree: the order is the magnitude's."""
    _, x, y = regression(n=40)
    q, _ = torch.linalg.qr(x)
    model = bp.BayesianModule(
        nn.Linear(6, 1, bias=False), bp.priors.normal(0.5), 40, bp.gaussian(NOISE)
    )
    theta = torch.tensor([[0.3, -0.1, 0.7, -1.5, 0.0, 0.2]])
    masks = {"weight": torch.ones(1, 6, dtype=torch.bool)}
    scores = resolve(CRITERIA, name)(
        {"weight": theta}, masks, model=model, data=(q, y), generator=torch.Generator()
    )["weight"]
    assert scores.flatten().argsort().tolist() == theta.abs().flatten().argsort().tolist()


def test_fisher_is_the_change_of_the_log_likelihood_of_a_linear_model_at_its_maximum():
    _, x, y = regression()
    model = bp.BayesianModule(
        nn.Linear(6, 1, bias=False), bp.priors.normal(0.5), len(x), bp.gaussian(NOISE)
    )
    theta = torch.linalg.lstsq(x, y).solution.T
    masks = {"weight": torch.ones(1, 6, dtype=torch.bool)}
    scores = criteria.fisher({"weight": theta}, masks, model=model, data=(x, y))["weight"][0]
    whole = bp.log_joint(model, {"weight": theta}, (x, y)).log_likelihood
    for i in range(6):
        without = theta.clone()
        without[0, i] = 0
        change = whole - bp.log_joint(model, {"weight": without}, (x, y)).log_likelihood
        assert scores[i].item() == pytest.approx(change, rel=1e-9)


def test_dead_units_and_constant_inputs_have_nothing_to_gain():
    model, weights, (x, y) = lifted("mlp")
    weights = {**weights, "2.weight": weights["2.weight"].clone()}
    weights["2.weight"][:, :2] = 0  # units 0 and 1 reach no output
    x = x.index_fill(1, torch.tensor([3]), 0.0)
    gains = evidence.occam_gains(model, weights, (x, y))
    assert gains["0.weight"][:2].abs().max() < 1e-9
    assert gains["0.weight"][:, 3].abs().max() < 1e-9
    assert gains["0.weight"][2:, :3].min() > 1e-6


def test_the_scale_by_evidence_maximises_the_exact_evidence():
    model, x, y = regression()
    delta = 100.0  # far off
    for _ in range(200):  # alternate the exact mode and the step, to the fixed point
        model = bp.BayesianModule(model.net, bp.priors.normal(delta**-0.5), 30, bp.gaussian(NOISE))
        mode, _ = posterior(x, y, delta=delta)
        found = evidence.evidence_scales(model, {"weight": mode.view(1, -1)}, (x, y))
        delta = found["weight"].item() ** -2
    best = log_marginal(x, y, delta=delta)
    assert log_marginal(x, y, delta=1.02 * delta) < best > log_marginal(x, y, delta=0.98 * delta)


def test_a_parameter_that_the_data_say_nothing_of_keeps_its_scale():
    model = bp.BayesianModule(nn.Linear(3, 2), bp.priors.normal(0.4), 10)
    weights = {"weight": torch.zeros(2, 3), "bias": torch.ones(2)}
    found = evidence.evidence_scales(model, weights, (torch.zeros(10, 3), torch.zeros(10).long()))
    assert found["weight"].item() == pytest.approx(0.4)


def test_pruned_weights_do_not_shrink_the_scale():
    torch.manual_seed(0)
    x = torch.randn(500, 6)
    model = bp.BayesianModule(nn.Linear(6, 1), bp.priors.normal(1.0), 500, bp.gaussian(0.1))
    weights = {"weight": torch.tensor([[1.0, -1.0, 1.0, 0, 0, 0]]), "bias": torch.ones(1)}
    kept = evidence.evidence_scales(
        model, weights, (x, x[:, :1]), {"weight": weights["weight"] != 0}
    )
    assert kept["weight"].item() == pytest.approx(1.0, rel=1e-3)
    every = evidence.evidence_scales(model, weights, (x, x[:, :1]))
    assert every["weight"] == pytest.approx(0.5**0.5, rel=1e-3)
