"""Masks, schedules, gates and the step: counts, ties, decisions and their records."""

import copy
import math

import pyro
import pytest
import torch
from helpers import class_data, lifted, mlp, net_weights, regression
from torch.nn.utils import prune as torch_prune

import pyro_bayesprune as bp
from pyro_bayesprune.models.sites import inspect_model
from pyro_bayesprune.pruning.masks import apply_masks, keep_highest, propose_masks
from pyro_bayesprune.pruning.prunable import prunable_sites
from pyro_bayesprune.pruning.record import PruneState
from pyro_bayesprune.pruning.registry import CRITERIA, SCHEDULES
from pyro_bayesprune.pruning.step import prune_step

LOG_TWO_PI = math.log(2 * math.pi)


def all_kept(weights):
    return {n: torch.ones_like(w, dtype=torch.bool) for n, w in weights.items()}


def magnitude_masks(weights, level, masks=None, scope="layer"):
    scores = bp.criteria.magnitude(weights, masks or weights)
    return propose_masks(scores, weights, masks or all_kept(weights), level, scope)


# Counts and ties


@pytest.mark.parametrize("level", [0.0, 0.1, 0.25, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("values", [torch.zeros, torch.ones, torch.randn], ids=lambda f: f.__name__)
def test_counts_are_exact_also_with_ties(level, values):
    weights = {"a": values(7, 13), "b": values(3, 5, 2)}
    for name, mask in magnitude_masks(weights, level).items():
        assert (~mask).sum() == round(weights[name].numel() * level)
    masks = magnitude_masks(weights, level, scope="global")
    assert sum((~m).sum() for m in masks.values()) == round(121 * level)


def test_ties_are_broken_by_position():
    assert keep_highest(torch.tensor([1.0, 0.0, 0.0, 2.0, 0.0]), 2).tolist() == [
        True, False, False, True, True
    ]  # fmt: skip


def test_the_lowest_scores_go():
    weights = {"w": torch.tensor([[3.0, -1.0], [0.5, -2.0]])}
    assert magnitude_masks(weights, 0.5)["w"].tolist() == [[True, False], [False, True]]


def test_masks_only_shrink_and_what_is_zero_goes_next():
    weights = {"w": torch.tensor([5.0, 0.0, 1.0, 4.0, 3.0, 2.0])}
    masks = {"w": torch.tensor([False, True, True, True, True, True])}  # the largest has gone
    proposed = magnitude_masks(weights, 0.5, masks)["w"]
    assert proposed.tolist() == [False, False, False, True, True, True]
    high = {"w": torch.tensor([9.0, 9.0, 1.0, 1.0, 1.0, 1.0])}  # whatever the scores say
    assert propose_masks(high, weights, masks, 0.34, "layer")["w"].tolist() == [
        False, False, True, True, True, True
    ]  # fmt: skip


def test_scores_of_minus_infinity_do_not_go_before_what_is_pruned():
    weights, masks = {"w": torch.ones(4)}, {"w": torch.tensor([True, True, True, False])}
    scores = {"w": torch.tensor([-math.inf, 1.0, 2.0, 3.0])}
    assert propose_masks(scores, weights, masks, 0.25, "layer")["w"].tolist() == [
        True, True, True, False
    ]  # fmt: skip


def test_fewer_than_are_pruned_already_changes_nothing():
    weights = {"w": torch.arange(1.0, 11.0)}
    masks = magnitude_masks(weights, 0.5)
    assert torch.equal(magnitude_masks(weights, 0.2, masks)["w"], masks["w"])


def test_global_scope_compares_all_layers():
    weights = {"small": torch.full((2, 2), 0.1), "large": torch.full((2, 2), 1.0)}
    masks = magnitude_masks(weights, 0.5, scope="global")
    assert not masks["small"].any() and masks["large"].all()


@pytest.mark.parametrize("amount", [0.1, 0.5, 0.93])
def test_masks_agree_with_torchs_where_there_are_no_ties(amount):
    net = mlp()
    found = magnitude_masks({n: w for n, w in net_weights(net).items() if w.dim() > 1}, amount)
    for layer, name in ((net[0], "0.weight"), (net[2], "2.weight")):
        torch_prune.l1_unstructured(layer, "weight", amount)
        assert torch.equal(found[name], layer.weight_mask.bool())


def test_random_scores_depend_on_the_generator_alone():
    weights = {"w": torch.randn(50, 4)}
    scores = [
        bp.criteria.random(w, all_kept(w), generator=torch.Generator().manual_seed(3))["w"]
        for w in (weights, {"w": torch.zeros(50, 4)})
    ]
    assert torch.equal(*scores)
    assert 0 <= scores[0].min() and scores[0].max() < 1 and len(scores[0].unique()) == 200


# Schedules


def test_schedules_are_their_formulas():
    assert [bp.Pruning(schedule="constant").target(e, 10) for e in (1, 10)] == [0.9, 0.9]
    one_shot = [bp.Pruning(schedule="one_shot").target(e, 10) for e in range(1, 11)]
    assert one_shot == [0.0] * 5 + [0.9] * 5
    cubic = [bp.Pruning(schedule="cubic").target(e, 10) for e in range(1, 11)]
    expected = [0.9 * (1 - (1 - min(1, e / 6)) ** 3) for e in range(1, 11)]
    assert cubic == pytest.approx(expected)
    assert cubic[5] == 0.9


@pytest.mark.parametrize("name", list(SCHEDULES))
@pytest.mark.parametrize("epochs", [1, 2, 25])
def test_schedules_rise_and_end_at_their_target(name, epochs):
    targets = [bp.Pruning(sparsity=0.8, schedule=name).target(e + 1, epochs) for e in range(epochs)]
    assert targets == sorted(targets) and targets[-1] == 0.8


def test_a_schedule_of_the_users_own_stays_within_its_bounds():
    pruning = bp.Pruning(sparsity=0.5, schedule=lambda epoch, epochs, target: epoch - 2.0)
    assert [pruning.target(e, 9) for e in (1, 2, 3)] == [0.0, 0.0, 0.5]


def test_thresholds_are_on_the_scale_asked_for():
    assert bp.Pruning(beta=0.95).log_threshold(200) == pytest.approx(200 * math.log(0.95))
    assert bp.Pruning(beta=0.95, per="dataset").log_threshold(200) == pytest.approx(math.log(0.95))
    assert bp.Pruning(beta=1.0).log_threshold(200) == 0
    assert bp.Pruning(beta=0.0).log_threshold(200) == -math.inf


# Gates: the two-weight model worked out in test_posterior. Pruning the smaller weight changes the
# log likelihood by -7/4 and the log prior by 1/8: a log Bayes factor of -1.625.

X = torch.tensor([[1, 0], [0, 1], [1, 1]], dtype=torch.float64)
Y = torch.tensor([1, 2, 3], dtype=torch.float64)
LOG_BF = -1.625


def two_weights(log_bf=None):
    w = {"w": torch.tensor([1.0, 0.5], dtype=torch.float64)}
    return PruneState(w, all_kept(w), log_bf)


def step(gate, beta, state=None, **options):
    options = {"sparsity": 0.5, "schedule": "constant", "per": "dataset"} | options
    pruning = bp.Pruning("magnitude", gate=gate, beta=beta, **options)
    return prune_step(regression(3), state or two_weights(), (X, Y), pruning)


def test_propose_keeps_a_candidate_above_the_threshold():
    state, record = step("propose", math.exp(LOG_BF - 0.01))
    assert record.decision == "pruned" and record.sparsity == 0.5
    assert state.weights["w"].tolist() == [1.0, 0.0]
    assert record.bayes_factor.log == state.log_bf == pytest.approx(LOG_BF, abs=1e-9)
    assert record.bayes_factor.log_likelihood_ratio == pytest.approx(-1.75, abs=1e-9)
    assert record.after.total - record.before.total == pytest.approx(LOG_BF, abs=1e-9)


def test_propose_refuses_a_candidate_below_the_threshold():
    state, record = step("propose", math.exp(LOG_BF + 0.01))
    assert record.decision == "refused" and record.sparsity == 0 and record.after == record.before
    assert state.weights["w"].tolist() == [1.0, 0.5] and state.masks["w"].all()
    assert record.bayes_factor.log == pytest.approx(LOG_BF, abs=1e-9)


def test_a_bayes_factor_at_the_threshold_is_not_above_it():
    w = {"w": torch.zeros(2, dtype=torch.float64)}  # zeroing zeros: a Bayes factor of exactly one
    state = PruneState(w, all_kept(w))
    assert step("propose", 1.0, state)[1].decision == "refused"
    assert step("propose", 0.999, state)[1].decision == "pruned"


def test_the_threshold_is_per_datum_where_asked():
    at = math.exp(LOG_BF / 3)
    assert step("propose", at * 0.99, per="datum")[1].decision == "pruned"
    assert step("propose", at * 1.01, per="datum")[1].decision == "refused"


def test_always_prunes_whatever_the_bayes_factor():
    state, record = step("always", 1e9)
    assert record.decision == "pruned" and not state.masks["w"][1]


def test_previous_goes_by_the_factor_recorded_last():
    for recorded, decision in ((None, "pruned"), (0.1, "pruned"), (0.0, "refused")):
        state, record = step("previous", 1.0, two_weights(recorded))
        assert (record.decision, record.recorded) == (decision, recorded)
        # Lines 5 and 6 run all the same: where nothing was pruned, the factor is one.
        assert state.log_bf == pytest.approx(LOG_BF if decision == "pruned" else 0.0)


def test_previous_with_a_threshold_below_one_reopens():
    state, first = step("previous", 0.9, two_weights(-1.0))
    _, second = step("previous", 0.9, state)
    assert [first.decision, second.decision] == ["refused", "pruned"]


def test_previous_with_a_threshold_of_zero_never_closes():
    assert step("previous", 0.0, two_weights(-1e9))[1].decision == "pruned"


def test_nothing_left_to_prune_is_unchanged():
    state, _ = step("always", 0.0)
    again, record = step("always", 0.0, state)
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

    for kept in (64, 16, 1):
        between = (cost(kept) + cost(2 * kept)) / 2
        pruning = bp.Pruning(
            sparsity=0.5, beta=math.exp(between), per="dataset", schedule="constant"
        )
        new, record = prune_step(model, state, (x, x @ w), pruning)
        tried = [round(t.sparsity * n) for t in record.tries]
        assert record.decision == "pruned" and tried == [64 // 2**i for i in range(len(tried))]
        assert tried[-1] == kept == (~new.masks["w"]).sum()
        for count, attempt in zip(tried, record.tries, strict=True):
            assert attempt.bayes_factor.log == pytest.approx(cost(count), abs=1e-9)


def test_propose_gives_up_after_six_halvings():
    w = {"w": torch.linspace(1, 2, 1000, dtype=torch.float64)}
    x = torch.ones(2, 1000, dtype=torch.float64)
    pruning = bp.Pruning(sparsity=0.5, beta=1e300, schedule="constant")
    state = PruneState(w, all_kept(w))
    new, record = prune_step(regression(2, dim=1000), state, (x, x @ w["w"]), pruning)
    assert [round(t.sparsity * 1000) for t in record.tries] == [500, 250, 125, 62, 31, 16, 8]
    assert record.decision == "refused" and new.masks["w"].all()
    assert record.bayes_factor == record.tries[-1].bayes_factor


def test_a_decision_that_the_prior_alone_turns_is_flagged():
    for log_beta, flagged in ((-1.7, True), (-1.8, False), (-1.6, False)):
        assert step("propose", math.exp(log_beta))[1].prior_decides is flagged


def test_a_dropped_prior_may_be_reported_where_it_does_not_decide():
    _, record = step("always", 0.0, pruned_prior="dropped")
    expected = LOG_TWO_PI / 2 + 1 / 8
    assert record.bayes_factor.log_prior_ratio == pytest.approx(expected, abs=1e-9)


def test_regrowth_starts_from_all_weights_at_every_step():
    state, _ = step("always", 0.0, regrow=True)
    state.weights["w"][:] = torch.tensor([0.1, 2.0])
    again, record = step("always", 0.0, state, regrow=True)
    assert record.sparsity_before == 0 and again.masks["w"].tolist() == [False, True]


def test_the_temperature_scales_the_likelihoods_part():
    pruning = bp.Pruning(sparsity=0.5, gate="always", schedule="constant")
    _, record = prune_step(regression(3), two_weights(), (X, Y), pruning, temperature=0.5)
    assert record.bayes_factor.log_likelihood_ratio == pytest.approx(-3.5, abs=1e-9)
    assert record.bayes_factor.log_prior_ratio == pytest.approx(0.125, abs=1e-9)


# The step as a function


@pytest.mark.parametrize("criterion", list(CRITERIA))
def test_a_step_returns_new_state_and_changes_nothing_else(criterion):
    data, net = class_data(), mlp()
    weights = net_weights(net)
    state = PruneState(weights, all_kept({n: w for n, w in weights.items() if w.dim() > 1}))
    held, random = copy.deepcopy(state), torch.get_rng_state()
    pruning = bp.Pruning(criterion, sparsity=0.5, gate="always")
    new, record = prune_step(
        lifted(net, data), state, data, pruning, generator=torch.Generator().manual_seed(0)
    )
    for name, weight in held.weights.items():
        assert torch.equal(state.weights[name], weight)
    assert all(m.all() for m in state.masks.values())
    assert torch.equal(torch.get_rng_state(), random) and not list(pyro.get_param_store())
    for name, mask in new.masks.items():
        assert (new.weights[name][~mask] == 0).all()
        assert record.layers[name] == 0.5 == record.sparsity
    assert torch.equal(new.weights["0.bias"], weights["0.bias"])


def test_a_criterion_of_the_users_own_sees_model_and_data():
    data, net = class_data(), mlp()
    model, seen = lifted(net, data), {}

    def last_first(weights, masks, *, model, data, generator):
        seen.update(model=model, data=data)
        return {n: -torch.arange(m.numel()).view(m.shape).float() for n, m in masks.items()}

    state = PruneState(net_weights(net), {"2.weight": torch.ones(3, 8, dtype=torch.bool)})
    pruning = bp.Pruning(last_first, sparsity=0.25, gate="always")
    new, _ = prune_step(model, state, data, pruning)
    assert new.masks["2.weight"].flatten().tolist() == [True] * 18 + [False] * 6
    assert seen["model"] is model and seen["data"] is data


def replayed(record, gate):
    """The decision, from nothing but the record."""
    if not record.tries:
        closed = gate == "previous" and record.recorded is not None
        return "refused" if closed and record.recorded <= record.log_threshold else "unchanged"
    passed = record.tries[-1].bayes_factor.log > record.log_threshold
    return "pruned" if gate != "propose" or passed else "refused"


@pytest.mark.parametrize("gate", ["propose", "previous", "always"])
@pytest.mark.parametrize("criterion", ["magnitude", "random"])
def test_decisions_replay_from_their_records(gate, criterion):
    pruning = bp.Pruning(criterion, sparsity=0.8, gate=gate, beta=0.9)
    records = [
        e.step
        for _, e in bp.train(lifted(mlp(), class_data()), class_data(), pruning=pruning, epochs=10)
    ]
    # A step without a try is unchanged at its target, refused where its gate was closed.
    for record in records:
        if record.sparsity_before < record.target:
            assert record.decision == replayed(record, gate)
        if record.decision != "pruned":
            assert record.sparsity == record.sparsity_before
    assert "pruned" in {record.decision for record in records}


# Which sites


def sites_of(model, x, y, wanted=None):
    return prunable_sites(model, inspect_model(model, x, y), wanted)


def test_a_networks_matrices_are_prunable():
    data = class_data()
    for prior in (bp.priors.normal(0.3), bp.priors.layer_scale()):
        model = lifted(mlp(), data, prior)
        assert sites_of(model, data.train_x, data.train_y) == ["0.weight", "2.weight"]
        wanted = ("*.bias", "0.weight")
        assert set(sites_of(model, data.train_x, data.train_y, wanted)) == {
            "0.weight", "0.bias", "2.bias"
        }  # fmt: skip


def test_applying_masks_leaves_other_sites_and_the_given_alone():
    weights = {"w": torch.tensor([1.0, math.nan, 3.0]), "b": torch.ones(1)}
    found = apply_masks(weights, {"w": torch.tensor([True, False, True])})
    assert found["w"].tolist() == [1.0, 0.0, 3.0] and found["b"] is weights["b"]
    assert weights["w"].isnan().sum() == 1


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_a_whole_fit_has_the_exact_counts(scope):
    pruning = bp.Pruning(sparsity=0.77, gate="always", scope=scope)
    fit = bp.fit(
        lifted(mlp(), class_data()), class_data(), pruning=pruning, epochs=3, progress=False
    )
    zeros = {n: int((fit.weights[n] == 0).sum()) for n in fit.masks}
    if scope == "layer":
        assert zeros == {"0.weight": round(48 * 0.77), "2.weight": round(24 * 0.77)}
    assert sum(zeros.values()) == (round(72 * 0.77) if scope == "global" else 37 + 18)
