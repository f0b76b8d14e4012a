"""Gates: which candidate is pruned and which refused."""

import json
import math

import pytest
import torch
from helpers import POINTS, TARGETS, all_kept, fitted, gated_step, two_weights
from helpers.exports import SHAPE

import pyro_bayesprune as bp
from pyro_bayesprune.pruning.record import PruneState

# Pruning the smaller weight changes the log likelihood by -7/4 and the log prior by 1/8, as
# test_bayes_factor works out.
LOG_BF = -1.625


def test_propose_keeps_a_candidate_above_the_threshold():
    state, record = gated_step("propose", math.exp(LOG_BF - 0.01))
    assert record.decision == "pruned" and record.sparsity == 0.5
    assert state.weights["w"].tolist() == [1.0, 0.0]
    assert record.bayes_factor.log == state.log_bf == pytest.approx(LOG_BF, abs=1e-9)
    assert record.bayes_factor.log_likelihood_ratio == pytest.approx(-1.75, abs=1e-9)
    assert record.after.total - record.before.total == pytest.approx(LOG_BF, abs=1e-9)


def test_propose_refuses_a_candidate_below_the_threshold():
    state, record = gated_step("propose", math.exp(LOG_BF + 0.01))
    assert record.decision == "refused" and record.sparsity == 0 and record.after == record.before
    assert state.weights["w"].tolist() == [1.0, 0.5] and state.masks["w"].all()
    assert record.bayes_factor.log == pytest.approx(LOG_BF, abs=1e-9)


def test_a_bayes_factor_at_the_threshold_is_not_above_it():
    w = {"w": torch.zeros(2, dtype=torch.float64)}  # zeroing zeros: a Bayes factor of exactly one
    state = PruneState(w, all_kept(w))
    assert gated_step("propose", 1.0, state)[1].decision == "refused"
    assert gated_step("propose", 0.999, state)[1].decision == "pruned"


def test_the_threshold_is_per_datum_where_asked():
    at = math.exp(LOG_BF / 3)
    assert gated_step("propose", at * 0.99, per="datum")[1].decision == "pruned"
    assert gated_step("propose", at * 1.01, per="datum")[1].decision == "refused"


@pytest.mark.parametrize(("w", "decision"), [((1.0, 0.5), "pruned"), ((0.5, 0.49), "refused")])
def test_retain_accepts_what_retains_half_of_the_gain(w, decision):
    """The gain over w = 0 and the Bayes factor, from sums of squares: σ and the prior scale are 1.

    The residuals of the three points are y - X w.
    """
    weights = torch.tensor(w, dtype=torch.float64)

    def log_joint(w):
        return -((TARGETS - POINTS @ w).square().sum() + w.square().sum()).item() / 2

    gain = log_joint(weights) - log_joint(torch.zeros_like(weights))
    log_bf = log_joint(weights * torch.tensor([1, 0])) - log_joint(weights)
    state = PruneState({"w": weights}, two_weights().masks)
    _, record = gated_step("retain", 1.0, state)
    assert record.log_threshold == pytest.approx(-gain / 2, abs=1e-9)
    assert record.bayes_factor.log == pytest.approx(log_bf, abs=1e-9)
    assert (log_bf > -gain / 2) == (decision == "pruned") and record.decision == decision


def test_retain_is_closed_while_the_empty_network_is_better():
    wrong = PruneState({"w": torch.tensor([-1.0, -0.5], dtype=torch.float64)}, two_weights().masks)
    with pytest.warns(RuntimeWarning, match="gate 'retain' refused .* prior may be too narrow"):
        _, record = gated_step("retain", 1.0, wrong)
    assert record.decision == "refused" and record.tries == () and record.log_threshold > 0


@pytest.mark.parametrize("epochs", range(1, 30))
def test_retain_leaves_the_last_epochs_for_recovery(epochs):
    pruning = bp.Pruning(sparsity=0.9)
    assert pruning.gate == "retain"
    last = max(e for e in range(1, epochs + 1) if pruning.may_prune(e, epochs))
    assert pruning.target(last, epochs) == 0.9  # the rising schedules reach their target in time
    assert last <= max(0.8 * epochs, 0.6 * epochs + 1)


def test_the_recommended_gate_needs_log_joints_and_a_target():
    assert bp.Pruning(sparsity="auto").gate == "propose"
    assert bp.Pruning(evaluation="sequential").gate == "propose"
    with pytest.raises(ValueError, match="gate='retain' needs log joints"):
        bp.Pruning(evaluation="sequential", gate="retain")


def test_always_prunes_whatever_the_bayes_factor():
    state, record = gated_step("always", 1e9)
    assert record.decision == "pruned" and not state.masks["w"][1]


def test_previous_goes_by_the_factor_recorded_last():
    for recorded, decision in ((None, "pruned"), (0.1, "pruned"), (0.0, "refused")):
        state, record = gated_step("previous", 1.0, two_weights(recorded))
        assert (record.decision, record.recorded) == (decision, recorded)
        # Lines 5 and 6 run all the same: where nothing was pruned, the factor is one.
        assert state.log_bf == pytest.approx(LOG_BF if decision == "pruned" else 0.0)


def test_previous_with_a_threshold_below_one_reopens():
    state, first = gated_step("previous", 0.9, two_weights(-1.0))
    _, second = gated_step("previous", 0.9, state)
    assert [first.decision, second.decision] == ["refused", "pruned"]


def test_previous_with_a_threshold_of_zero_never_closes():
    assert gated_step("previous", 0.0, two_weights(-1e9))[1].decision == "pruned"


def test_a_decision_that_the_prior_alone_turns_is_flagged():
    for log_beta, flagged in ((-1.7, True), (-1.8, False), (-1.6, False)):
        assert gated_step("propose", math.exp(log_beta))[1].prior_decides is flagged


class TestUnitScope:
    def test_the_gate_decides(self, digits_part):
        pruning = bp.Pruning(
            sparsity=0.9, gate="propose", scope="unit", beta=3.0, schedule="constant"
        )
        fit = fitted(bp.FCN(SHAPE, 10, (20, 20, 20)), digits_part, pruning=pruning)
        assert (fit.history["decision"] == "refused").all() and fit.sparsity == 0
        tried = json.loads(fit.history["tried"][0])
        assert [row[0] for row in tried[:3]] == pytest.approx([0.9, 0.45, 0.225], abs=0.05)
