"""sparsity='auto': the evidence chooses how much to prune."""

import json
import math

import pytest
import torch
from torch import nn

import pyro_bayesprune as bp
from pyro_bayesprune.inference import evidence
from pyro_bayesprune.pruning.masks import apply_masks
from pyro_bayesprune.pruning.record import PruneState


def sparse_regression(n=400, p=64, informative=8, seed=0):
    torch.manual_seed(seed)
    x, truth = torch.randn(n, p), torch.zeros(p, 1)
    truth[:informative] = 1.0
    y = x @ truth + 0.5 * torch.randn(n, 1)
    net = nn.Linear(p, 1, bias=False)
    return bp.BayesianModule(net, bp.priors.normal(1.0), n, bp.gaussian(0.5)), (x, y)


def mode(model, x, y):
    precision = x.double().T @ x.double() / 0.25 + torch.eye(x.shape[1], dtype=torch.float64)
    return torch.linalg.solve(precision, x.double().T @ y.double() / 0.25).T.to(x.dtype)


def start(weights):
    masks = {n: torch.ones_like(w, dtype=torch.bool) for n, w in weights.items()}
    return PruneState(weights, masks)


@pytest.mark.parametrize("criterion", ["magnitude", "savage_dickey", "snr"])
def test_steps_ratchet_up_to_the_true_support_and_stop(criterion):
    model, (x, y) = sparse_regression()
    pruning = bp.Pruning(criterion, sparsity="auto", beta=1.0, per="dataset")
    state, levels = start({"weight": mode(model, x, y)}), []
    for _ in range(12):
        state, record = bp.prune_step(model, state, (x, y), pruning)
        levels.append(record.sparsity)
        keep = state.masks["weight"][0]
        refitted = torch.zeros(1, 64)  # the network adapts: the mode of what is left
        refitted[:, keep] = mode(model, x[:, keep], y)
        state = PruneState({"weight": refitted}, state.masks, state.log_bf)
    assert levels == sorted(levels) and levels[0] <= 0.5
    keep = state.masks["weight"][0]
    assert keep[:8].all()  # what the data need is never pruned
    assert keep.sum() <= 12


def test_a_step_takes_the_largest_share_of_its_ladder_that_passes():
    model, (x, y) = sparse_regression()
    state = start({"weight": mode(model, x, y)})
    pruning = bp.Pruning("random", sparsity="auto", beta=1.0, per="dataset")
    generator = torch.Generator().manual_seed(3)
    _, record = bp.prune_step(model, state, (x, y), pruning, generator=generator)
    assert [t.sparsity for t in record.tries] == [
        pytest.approx(round(64 / 2**k) / 64) for k in range(1, len(record.tries) + 1)
    ]
    assert all(t.bayes_factor.log <= 0 for t in record.tries[:-1])
    assert (record.decision == "pruned") == (record.tries[-1].bayes_factor.log > 0)


def test_the_factor_is_the_joint_ratio_and_the_gains_of_what_was_removed():
    model, (x, y) = sparse_regression()
    weights = {"weight": mode(model, x, y)}
    state, record = bp.prune_step(
        model, start(weights), (x, y), bp.Pruning(sparsity="auto", beta=1.0, per="dataset")
    )
    factor = record.bayes_factor
    assert factor.kind == "laplace" and record.decision == "pruned"
    gains = evidence.occam_gains(model, weights, (x, y))["weight"][~state.masks["weight"]]
    assert factor.log_occam_ratio == pytest.approx(gains.sum().item(), rel=1e-6)
    before = bp.log_joint(model, weights, (x, y))
    after = bp.log_joint(model, apply_masks(weights, state.masks), (x, y))
    assert factor.log - factor.log_occam_ratio == pytest.approx(after.total - before.total)


def test_its_factor_is_below_that_of_exact_evidences():
    """Zeroing without refitting, and single gains of one layer: both are below the exact factor."""
    model, (x, y) = sparse_regression()
    weights = {"weight": mode(model, x, y)}
    state, record = bp.prune_step(
        model, start(weights), (x, y), bp.Pruning(sparsity="auto", beta=1.0, per="dataset")
    )
    keep = state.masks["weight"]
    refitted = torch.zeros(1, 64)
    refitted[keep] = mode(model, x[:, keep[0]], y)[0]
    pruned = evidence.log_evidence(model, {"weight": refitted}, (x, y), state.masks, "full")
    whole = evidence.log_evidence(model, weights, (x, y), structure="full")
    assert 0 < record.bayes_factor.log < pruned.log - whole.log


def test_a_threshold_out_of_reach_prunes_nothing():
    model, (x, y) = sparse_regression()
    pruning = bp.Pruning(sparsity="auto", beta=1e300, per="datum")
    state, record = bp.prune_step(model, start({"weight": mode(model, x, y)}), (x, y), pruning)
    assert record.decision == "refused" and len(record.tries) == 6
    assert state.masks["weight"].all()


def test_a_fit_prunes_in_the_first_epochs_and_then_fine_tunes():
    data = bp.load_dataset("digits")
    model = bp.BayesianModule(
        bp.FCN(data.shape, 10, hidden=(64,)), bp.priors.normal(0.3), data.num_train
    )
    fits = [
        bp.fit(model, data, epochs=10, seed=0, progress=False, pruning=bp.Pruning(sparsity="auto"))
        for _ in range(2)
    ]
    history = fits[0].history
    assert fits[0].sparsity == fits[1].sparsity > 0.5
    assert history["sparsity"].is_monotonic_increasing
    assert set(history["kind"]) == {"laplace"}
    assert (history["decision"][history["epoch"] > 6] == "unchanged").all()
    assert history["validation_accuracy"].iloc[-1] > 0.85  # 200 steps in all
    for _, row in history.iterrows():
        if tried := json.loads(row["tried"]):
            assert sum(tried[-1][1:]) == pytest.approx(row["log_bf"])
            assert row["log_occam_ratio"] > 0 and math.isfinite(row["log_bf"])


@pytest.mark.parametrize("gate", ["previous", "always"])
def test_only_the_gate_propose_can_choose(gate):
    with pytest.raises(ValueError, match="propose"):
        bp.Pruning(sparsity="auto", gate=gate)


def test_priors_and_models_without_curvature_say_so():
    model, (x, y) = sparse_regression()
    pruning = bp.Pruning(sparsity="auto")
    state = start({"weight": mode(model, x, y)})
    model.prior = bp.priors.laplace(0.1)
    with pytest.raises(ValueError, match="Laplace"):
        bp.prune_step(model, state, (x, y), pruning)
