"""The pruning step: what it tries, what it returns and what it leaves alone."""

import copy
import math

import pyro
import pytest
import torch
from helpers import (
    LOG_TWO_PI,
    POINTS,
    TARGETS,
    all_kept,
    class_data,
    gated_step,
    lifted,
    mlp,
    net_weights,
    regression,
    two_weights,
)

import pyro_bayesprune as bp
from pyro_bayesprune.pruning.record import PruneState
from pyro_bayesprune.pruning.registry import CRITERIA
from pyro_bayesprune.pruning.step import prune_step


def test_nothing_left_to_prune_is_unchanged():
    state, _ = gated_step("always", 0.0)
    again, record = gated_step("always", 0.0, state)
    assert record.decision == "unchanged" and record.tries == () and again.log_bf == 0
    assert record.bayes_factor.value() == 1 and record.before == record.after


def test_propose_backs_off_by_halves_and_records_every_try():
    """Weights of one regression with an orthogonal design: each prunes at a cost of its own."""
    n = 128
    x = torch.eye(n, dtype=torch.float64)
    w = torch.linspace(0.01, 1.28, n, dtype=torch.float64)
    state = PruneState({"w": w}, all_kept({"w": w}))
    model = regression(n, dim=n, prior_scale=10.0)

    def cost(k):  # of the k smallest weights: w²/2 of likelihood lost, w²/200 of prior gained
        return -w[:k].square().sum().item() * (0.5 - 0.005)

    for num_pruned in (64, 16, 1):
        between = (cost(num_pruned) + cost(2 * num_pruned)) / 2
        pruning = bp.Pruning(
            sparsity=0.5,
            gate="propose",
            beta=math.exp(between),
            per="dataset",
            schedule="constant",
        )
        new, record = prune_step(model, state, (x, x @ w), pruning)
        tried = [round(t.sparsity * n) for t in record.tries]
        assert record.decision == "pruned" and tried == [64 // 2**i for i in range(len(tried))]
        assert tried[-1] == num_pruned == (~new.masks["w"]).sum()
        for count, attempt in zip(tried, record.tries, strict=True):
            assert attempt.bayes_factor.log == pytest.approx(cost(count), abs=1e-9)


def test_propose_gives_up_after_six_halvings():
    w = {"w": torch.linspace(1, 2, 1000, dtype=torch.float64)}
    x = torch.ones(2, 1000, dtype=torch.float64)
    pruning = bp.Pruning(sparsity=0.5, gate="propose", beta=1e300, schedule="constant")
    state = PruneState(w, all_kept(w))
    new, record = prune_step(regression(2, dim=1000), state, (x, x @ w["w"]), pruning)
    assert [round(t.sparsity * 1000) for t in record.tries] == [500, 250, 125, 62, 31, 16, 8]
    assert record.decision == "refused" and new.masks["w"].all()
    assert record.bayes_factor == record.tries[-1].bayes_factor


def test_a_dropped_prior_may_be_reported_where_it_does_not_decide():
    _, record = gated_step("always", 0.0, pruned_prior="dropped")
    expected = LOG_TWO_PI / 2 + 1 / 8
    assert record.bayes_factor.log_prior_ratio == pytest.approx(expected, abs=1e-9)


def test_regrowth_starts_from_all_weights_at_every_step():
    state, _ = gated_step("always", 0.0, regrow=True)
    state.weights["w"][:] = torch.tensor([0.1, 2.0])
    again, record = gated_step("always", 0.0, state, regrow=True)
    assert record.sparsity_before == 0 and again.masks["w"].tolist() == [False, True]


def test_the_temperature_scales_the_likelihoods_part():
    pruning = bp.Pruning(sparsity=0.5, gate="always", schedule="constant")
    _, record = prune_step(
        regression(3), two_weights(), (POINTS, TARGETS), pruning, temperature=0.5
    )
    assert record.bayes_factor.log_likelihood_ratio == pytest.approx(-3.5, abs=1e-9)
    assert record.bayes_factor.log_prior_ratio == pytest.approx(0.125, abs=1e-9)


@pytest.mark.parametrize("criterion", list(CRITERIA))
def test_a_step_returns_new_state_and_changes_nothing_else(criterion):
    data, net = class_data(), mlp()
    weights = net_weights(net)
    state = PruneState(weights, all_kept({n: w for n, w in weights.items() if w.dim() > 1}))
    before, random = copy.deepcopy(state), torch.get_rng_state()
    pruning = bp.Pruning(criterion, sparsity=0.5, gate="always", scope="layer")
    new, record = prune_step(
        lifted(net, data), state, data, pruning, generator=torch.Generator().manual_seed(0)
    )
    for name, weight in before.weights.items():
        assert torch.equal(state.weights[name], weight)
    assert all(m.all() for m in state.masks.values())
    assert torch.equal(torch.get_rng_state(), random) and not list(pyro.get_param_store())
    for name, mask in new.masks.items():
        assert (new.weights[name][~mask] == 0).all()
        assert record.layers[name] == 0.5 == record.sparsity
    assert torch.equal(new.weights["0.bias"], weights["0.bias"])


def test_a_criterion_of_the_users_own_sees_model_and_data():
    data, net = class_data(), mlp()
    model, received = lifted(net, data), {}

    def last_first(weights, masks, *, model, data, generator):
        received.update(model=model, data=data)
        return {n: -torch.arange(m.numel()).view(m.shape).float() for n, m in masks.items()}

    state = PruneState(net_weights(net), {"2.weight": torch.ones(3, 8, dtype=torch.bool)})
    pruning = bp.Pruning(last_first, sparsity=0.25, gate="always")
    new, _ = prune_step(model, state, data, pruning)
    assert new.masks["2.weight"].flatten().tolist() == [True] * 18 + [False] * 6
    assert received["model"] is model and received["data"] is data
