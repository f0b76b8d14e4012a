"""Sequential evaluation: errors by simulation, agreement with the full data, what is recorded."""

import math

import pytest
import torch
from helpers import class_data, lifted, mlp
from scipy.stats import binom

import pyro_bayesprune as bp
from pyro_bayesprune.inference.log_joint import log_densities
from pyro_bayesprune.pruning.masks import apply_masks, keep_highest
from pyro_bayesprune.pruning.record import PruneState
from pyro_bayesprune.pruning.sequential import FIRST, estimate_sum, first_share, half_width, looks
from pyro_bayesprune.pruning.step import prune_step

ALPHA, ORDERS = 0.05, 1000


@pytest.fixture(scope="module")
def real_differences():
    """Differences of log likelihoods on all digits: a network, and half of it pruned."""
    data = bp.load_dataset("digits", validation=0)
    x = torch.cat([data.train_x, data.test_x]).repeat(4, 1, 1, 1)
    y = torch.cat([data.train_y, data.test_y]).repeat(4)
    x = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    net = bp.FCN(data.shape, 10, (32, 32, 32))
    model = bp.BayesianModule(net, bp.priors.normal(0.3), len(x))
    state = bp.fit(model, (x, y), epochs=2, progress=False).state
    masks = {
        n: keep_highest(state.weights[n].abs(), state.weights[n].numel() // 2) for n in state.masks
    }
    before, _ = log_densities(model, state.weights, (x, y))
    after, _ = log_densities(model, apply_masks(state.weights, masks), (x, y))
    return after - before


@pytest.mark.slow
@pytest.mark.parametrize("z", [-4, -2, -1, -0.5, 0.5, 1, 2, 4])
def test_errors_of_decisions_stay_below_alpha(real_differences, z):
    num = len(real_differences)
    subset = num // 20
    error = num * real_differences.std() * math.sqrt((1 - subset / num) / subset)
    total = real_differences.sum().item()
    threshold = total + z * error.item()
    wrong = 0
    for seed in range(ORDERS):
        order = torch.randperm(num, generator=torch.Generator().manual_seed(seed))
        shuffled = real_differences[order]
        estimate = estimate_sum(
            lambda t, d=shuffled: d[:t], num, constant=0.0, threshold=threshold, alpha=ALPHA
        )
        wrong += (estimate.value > threshold) != (total > threshold)
    assert wrong <= binom.ppf(0.999, ORDERS, ALPHA)


@pytest.mark.slow
def test_intervals_cover_at_all_looks_at_once(real_differences):
    num, total, missed = len(real_differences), real_differences.sum().item(), 0
    for seed in range(ORDERS):
        order = torch.randperm(num, generator=torch.Generator().manual_seed(seed))
        d = real_differences[order]
        missed += any(
            abs(num * d[:t].mean() - total) > half_width(t, num, d[:t].std().item(), ALPHA) + 1e-6
            for t in looks(num, ALPHA)
        )
    assert missed <= binom.ppf(0.999, ORDERS, ALPHA)


def test_the_estimate_is_unbiased_and_clear_decisions_read_little():
    d = torch.randn(100_000, dtype=torch.float64) + 0.5
    means = []
    for seed in range(200):
        order = torch.randperm(len(d), generator=torch.Generator().manual_seed(seed))
        shuffled = d[order]
        estimate = estimate_sum(
            lambda t, s=shuffled: s[:t], len(d), constant=3.0, threshold=-math.inf, alpha=0.01
        )
        assert (
            estimate.share == pytest.approx(first_share(0.005), abs=1e-4)
            and estimate.low < estimate.value < estimate.high
        )
        means.append(estimate.value)
    means = torch.tensor(means, dtype=torch.float64)
    assert abs(means.mean() - d.sum() - 3) < 4 * means.std() / math.sqrt(len(means))


def test_undecided_reads_all_and_is_exact():
    d = torch.randn(1000, dtype=torch.float64)
    exact = d.sum().item()
    estimate = estimate_sum(lambda t: d[:t], 1000, constant=0.0, threshold=exact, alpha=0.01)
    assert estimate.share == 1 and estimate.low == estimate.high == pytest.approx(exact)
    assert list(looks(1000, 0.01))[-1] == 1000 and list(looks(10, 0.01)) == [10]


def step(pruning, epochs=1, state=None):
    torch.manual_seed(0)
    data = class_data(4 * FIRST)
    model = lifted(mlp(), data)
    weights = {n: p.detach() for n, p in model.net.named_parameters()}
    masks = {n: torch.ones_like(w, dtype=torch.bool) for n, w in weights.items() if w.dim() > 1}
    generator = torch.Generator().manual_seed(0)
    return prune_step(
        model, state or PruneState(weights, masks), data, pruning, generator=generator, epoch=epochs
    )


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.999, 10.0])
def test_sequential_decides_as_full(beta):
    options = {"sparsity": 0.5, "gate": "propose", "beta": beta, "schedule": "constant"}
    new, record = step(bp.Pruning(evaluation="sequential", alpha=1e-6, **options))
    full, expected = step(bp.Pruning(**options))
    assert record.decision == expected.decision
    assert all(torch.equal(new.masks[n], full.masks[n]) for n in full.masks)
    assert math.isnan(record.before.total) and math.isnan(record.after.total)
    last, exact = record.tries[-1], expected.tries[-1]
    low, high = last.interval
    assert low <= exact.bayes_factor.log + 1e-3 and exact.bayes_factor.log <= high + 1e-3
    assert last.bayes_factor.log_prior_ratio == pytest.approx(exact.bayes_factor.log_prior_ratio)
    assert 0 < record.data_read <= 1 and expected.data_read == 1


def test_unchanged_masks_read_no_data():
    pruning = bp.Pruning(evaluation="sequential", sparsity=0.0)
    _, record = step(pruning)
    assert record.decision == "unchanged" and record.data_read == 0
    assert math.isnan(record.before.total)


def test_history_has_the_interval(class_data=class_data):
    data = class_data(4 * FIRST)
    fit = bp.fit(
        lifted(mlp(), data),
        data,
        pruning=bp.Pruning(evaluation="sequential", schedule="constant", sparsity=0.5),
        epochs=1,
        progress=False,
    )
    row = fit.history.iloc[0]
    assert row["log_bf_low"] <= row["log_bf"] <= row["log_bf_high"]
    assert 0 < row["data_read"] <= 1 and math.isnan(row["log_joint_before"])
