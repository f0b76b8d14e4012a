"""Conditioning against ridge regression, against the full matrix, and on other modules."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_bayesprune as bp
from pyro_bayesprune.inference import rows
from pyro_bayesprune.inference.conditioning import Conditioning, prior_curvature
from pyro_bayesprune.inference.curvature import flat, ggn_full, prior_precision
from pyro_bayesprune.inference.log_joint import log_joint
from pyro_bayesprune.inference.rows import Rows

pytestmark = pytest.mark.usefixtures("double")
NOISE, SIGMA = 0.7, 1.3


def ridge(x, y, columns, temperature=1.0):
    """Ridge regression on some columns, and its precision."""
    some = x[:, columns]
    scale = NOISE**2 * temperature
    precision = some.T @ some / scale + torch.eye(some.shape[1]) / SIGMA**2
    return torch.linalg.solve(precision, some.T @ y / scale), precision


def problem(temperature=1.0):
    torch.manual_seed(0)
    x, y = torch.randn(80, 12) @ torch.randn(12, 12), torch.randn(80, 5)
    design = torch.cat([x, torch.ones(80, 1)], 1)
    net = nn.Linear(12, 5)
    model = bp.BayesianModule(net, bp.priors.normal(SIGMA), 80, bp.gaussian(NOISE))
    mode, _ = ridge(design, y, slice(None), temperature)
    weights = {"weight": mode[:-1].T.clone(), "bias": mode[-1].clone()}
    return model, weights, (x, y), design


def random_masks(weights, share=0.5, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return {
        n: torch.rand(w.shape, generator=generator) > share
        for n, w in weights.items() if w.dim() > 1
    }  # fmt: skip


@pytest.mark.parametrize("temperature", [1.0, 0.1, 3.0])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_survivors_are_those_of_ridge_regression_on_their_columns(share, temperature):
    model, weights, data, design = problem(temperature)
    masks = random_masks(weights, share)
    points = Conditioning(model, weights, data, ("weight",), temperature).points(masks)
    for point in points:  # one layer: both passes are the same
        for o, mask in enumerate(masks["weight"]):
            columns = torch.cat([mask, torch.tensor([True])])
            exact, _ = ridge(design, data[1][:, o], columns, temperature)
            result = torch.cat([point["weight"][o, mask], point["bias"][o : o + 1]])
            torch.testing.assert_close(result, exact, rtol=0, atol=1e-8)
            assert not point["weight"][o, ~mask].any()


def test_conditioning_in_two_steps_equals_conditioning_in_one():
    model, weights, data, _ = problem()
    some = random_masks(weights, 0.3)
    more = {n: m & random_masks(weights, 0.6, seed=2)[n] for n, m in some.items()}
    once = Conditioning(model, weights, data, ("weight",)).points(more)[0]
    between = Conditioning(model, weights, data, ("weight",)).points(some)[0]
    twice = Conditioning(model, between, data, ("weight",)).points(more)[0]
    torch.testing.assert_close(once, twice, rtol=0, atol=1e-10)


def test_weights_of_dead_inputs_and_outputs_stay_as_they_are():
    model, weights, (x, y), _ = problem()
    x[:, 2] = 0
    net = nn.Sequential(nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 5))
    model = bp.BayesianModule(net, bp.priors.normal(SIGMA), 80, bp.gaussian(NOISE))
    weights = {n: p.detach().clone() for n, p in net.named_parameters()}
    weights["0.bias"][3] = -100.0  # a unit that is never active
    masks = random_masks(weights)
    for point in Conditioning(model, weights, (x, y), tuple(masks)).points(masks):
        for name, fixed in (("0.weight", [..., 2]), ("0.weight", [3]), ("2.weight", [..., 3])):
            before = weights[name].masked_fill(~masks[name], 0)[tuple(fixed)]
            torch.testing.assert_close(point[name][tuple(fixed)], before)
        assert not torch.equal(
            point["0.weight"], weights["0.weight"].masked_fill(~masks["0.weight"], 0)
        )


def test_the_occam_gain_is_that_of_the_evidence_of_a_linear_model():
    model, weights, data, design = problem()
    masks = random_masks(weights, 0.6)
    full = {"weight": torch.ones_like(masks["weight"])}

    def log_occam(columns):
        _, precision = ridge(design, data[1][:, 0], columns)
        return -torch.logdet(precision).item() / 2 - len(precision) * torch.tensor(SIGMA).log()

    rows = [torch.cat([m, torch.tensor([True])]) for m in masks["weight"]]
    exact = sum(log_occam(row) - log_occam(torch.ones_like(row)) for row in rows)
    gain = Conditioning(model, weights, data, ("weight",)).occam_gain(full, masks)
    assert gain == pytest.approx(exact.item(), rel=1e-9)


@pytest.mark.parametrize("keep", [0.05, 0.5, 0.95])
def test_both_solvers_agree_and_leave_converged_rows_alone(keep):
    torch.manual_seed(0)
    a = torch.randn(30, 8) @ torch.randn(8, 20)  # singular
    system = Rows(a.T @ a, torch.rand(7) * 100, torch.rand(7, 20) + 0.01)
    system = system._replace(scale=system.scale * (torch.arange(7) != 3))  # a dead output
    mask = torch.rand(7, 20) < keep
    mask[4] = False
    right = torch.randn(7, 20)
    direct = system._solve_directly(mask, right)
    iterated = system._conjugate_gradients(mask, right, torch.zeros_like(right))
    torch.testing.assert_close(direct, iterated, rtol=1e-7, atol=1e-9)
    assert not direct[~mask].any()


def test_an_iteration_that_does_not_converge_is_replaced_by_the_direct_solver(monkeypatch):
    torch.manual_seed(0)
    a, mask, right = torch.randn(30, 20), torch.rand(7, 20) < 0.5, torch.randn(7, 20)
    system = Rows(a.T @ a, torch.rand(7) * 100, torch.full((7, 20), 0.01))
    monkeypatch.setattr(rows, "STEPS", 2)
    iterated = system._conjugate_gradients(mask, right, torch.zeros_like(right))
    torch.testing.assert_close(iterated, system._solve_directly(mask, right))


class Network(nn.Module):
    """Convolutions, a strided one without bias, BatchNorm, an in-place activation, a skip."""

    def __init__(self):
        super().__init__()
        self.one, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.two = nn.Conv2d(4, 4, 3, stride=2, bias=False)
        self.out = nn.Linear(4 * 9, 3)

    def forward(self, x):
        h = torch.relu_(self.norm(self.one(x)))
        h = torch.tanh(self.two(h)) + 0.1 * h[:, :, :3, :3]
        return self.out(h.flatten(1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.read, self.out = nn.GRU(8, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x):
        return self.out(self.read(x[:, 0])[0][:, -1])


def frozen():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Tanh(), nn.Linear(10, 3))
    net[1].weight.requires_grad_(False)
    net[1].bias.requires_grad_(False)
    return net


def tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.code, self.out = nn.Linear(64, 64), nn.Linear(64, 3)

        def forward(self, x):
            h = torch.relu(self.code(x.flatten(1)))
            return self.out(nn.functional.linear(h, self.code.weight.T))

    return Tied()


NETWORKS = {"convolutions": Network, "recurrent": Recurrent, "frozen": frozen, "tied": tied}


def trained(make, prior=None):
    torch.manual_seed(0)
    x = torch.randn(120, 1, 8, 8)
    y = x.flatten(1)[:, :3].argmax(1)
    model = bp.BayesianModule(make(), prior or bp.priors.normal(0.5), 120)
    result = bp.fit(model, (x, y), pruning=bp.Pruning(sparsity=0.0), epochs=60, progress=False)
    return result, (x, y)


@pytest.mark.parametrize("kind", NETWORKS)
def test_other_modules_lose_less_by_conditioning_than_by_projection(kind):
    result, data = trained(NETWORKS[kind])
    masks = random_masks({n: result.weights[n] for n in result.masks}, 0.6)
    conditioning = Conditioning(result.model, result.weights, data, tuple(masks))
    projected = {n: w * masks[n] if n in masks else w for n, w in result.weights.items()}
    expected = {"tied": {"out.weight"}}.get(kind, set(masks))  # 4,160 tied weights: no block
    assert set(conditioning.conditioned) == expected
    before = log_joint(result.model, projected, data).total
    after = [log_joint(result.model, p, data).total for p in conditioning.points(masks)]
    assert max(after) > before
    for point in conditioning.points(masks):
        assert all(not point[n][~masks[n]].any() for n in masks)
        assert all(point[n].dtype == w.dtype for n, w in result.weights.items())


def test_an_exact_block_is_conditioned_as_by_the_full_matrix():
    """A recurrent layer alone: its mean given zeros, from the whole GGN of the layer."""
    result, data = trained(Recurrent)
    model, weights = result.model, result.weights
    masks = random_masks({"read.weight_ih_l0": weights["read.weight_ih_l0"]}, 0.4)
    (point,) = Conditioning(model, weights, data, tuple(masks)).points(masks)
    names = [n for n in weights if n.startswith("read.")]
    delta = torch.cat([prior_precision(model, weights)[n].flatten() for n in names])
    precision = ggn_full(model, weights, data, names) + delta.diag()
    theta = torch.cat([weights[n].flatten() for n in names])
    keep = torch.cat(
        [masks.get(n, torch.ones_like(weights[n], dtype=torch.bool)).flatten() for n in names]
    )
    exact = torch.linalg.solve(precision[keep][:, keep], (precision @ theta)[keep])
    result = torch.cat([point[n].flatten() for n in names])[keep]
    torch.testing.assert_close(result, exact, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("prior", "exact"),
    [
        (bp.priors.normal(0.5), lambda w: torch.full_like(w, 4.0)),
        (bp.priors.laplace(0.5), lambda w: 2 / w.abs()),
        (bp.priors.student_t(3.0, 0.5), lambda w: 4 / (0.75 + w**2)),
    ],
    ids=["normal", "laplace", "student_t"],
)  # fmt: skip
def test_the_priors_curvature_is_that_of_a_normal_of_the_same_slope(prior, exact):
    model = bp.BayesianModule(nn.Linear(4, 3), prior, 10)
    weights = {n: torch.randn(p.shape) for n, p in model.named_weights().items()}
    curvature = flat(model, prior_curvature(model, weights))
    torch.testing.assert_close(curvature, exact(flat(model, weights)))


@pytest.mark.parametrize("prior", [bp.priors.laplace(0.3), bp.priors.student_t(3.0, 0.3)])
def test_networks_under_other_priors_are_conditioned_too(prior):
    result, data = trained(Network, prior)
    masks = random_masks({n: result.weights[n] for n in result.masks}, 0.6)
    conditioning = Conditioning(result.model, result.weights, data, tuple(masks))
    projected = {n: w * masks[n] if n in masks else w for n, w in result.weights.items()}
    after = [log_joint(result.model, p, data).total for p in conditioning.points(masks)]
    assert max(after) > log_joint(result.model, projected, data).total


def test_a_handwritten_model_is_projected():
    def model(x, y=None):
        w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([4]).to_event(1))
        with pyro.plate("data", 10, subsample=x):
            pyro.sample("obs", dist.Normal(x @ w, 1.0), obs=y)

    weights, data = {"w": torch.randn(4)}, (torch.randn(10, 4), torch.randn(10))
    conditioning = Conditioning(model, weights, data, ("w",))
    masks = {"w": torch.tensor([True, False, True, False])}
    assert conditioning.projected == ("w",)
    assert not conditioning.points(masks)


def test_a_network_under_a_prior_without_a_known_mode_is_projected():
    def mixture(name, shape):
        scales = torch.tensor([0.01, 1.0]).expand(*shape, 2)
        choice = torch.distributions.Categorical(torch.ones(*shape, 2))
        return dist.MixtureSameFamily(choice, dist.Normal(0.0, scales)).to_event(len(shape))

    model = bp.BayesianModule(nn.Linear(4, 3), mixture, 10)
    weights = {n: torch.randn(p.shape) for n, p in model.named_weights().items()}
    data = torch.randn(10, 4), torch.randint(3, (10,))
    assert Conditioning(model, weights, data, ("weight",)).projected == ("weight",)
