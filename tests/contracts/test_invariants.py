"""The invariants that are checked in every training of the tests notice what breaks them."""

from contextlib import nullcontext
from dataclasses import replace

import pyro
import pytest
import torch
from helpers import class_data, lifted, mlp
from invariants import CheckedTrainer, checked_step

import pyro_bayesprune as bp
from pyro_bayesprune.pruning import masks, step
from pyro_bayesprune.training import gradients, loop, optimizer

HALF = bp.Pruning(sparsity=0.5, gate="always", schedule="constant")


def fit(rule=HALF, **options):
    data = class_data()
    return bp.fit(lifted(mlp(), data), data, pruning=rule, epochs=3, progress=False, **options)


def test_every_training_here_is_checked():
    assert loop.Trainer is CheckedTrainer and loop.prune_step is checked_step
    fit()


def test_moments_that_are_left_are_noticed(monkeypatch):
    monkeypatch.setattr(optimizer.JointOptim, "mask_moments", lambda self, masks: None)
    with pytest.raises(AssertionError, match="what is pruned is not zero"):
        fit()


def test_gradients_that_revive_weights_are_noticed(monkeypatch):
    monkeypatch.setattr(gradients, "mask_gradient", lambda mask, weight: None)
    with pytest.raises(AssertionError, match="what is pruned is not zero"):
        fit(optim=pyro.optim.SGD({"lr": 0.1}))


def test_an_optimiser_that_does_not_fix_weights_is_noticed(monkeypatch):
    monkeypatch.setattr(optimizer.JointOptim, "fixed_entries", lambda self, masks: nullcontext())
    with pytest.raises(AssertionError, match="what is pruned is not zero"):
        fit()


def broken(change):
    """`keep_highest` with its result changed."""
    keep = masks.keep_highest
    return lambda scores, number: change(keep(scores, number))


def test_a_weight_too_many_is_noticed(monkeypatch):
    def one_more(kept):
        kept[kept.nonzero()[0]] = False
        return kept

    monkeypatch.setattr(masks, "keep_highest", broken(one_more))
    with pytest.raises(AssertionError):
        fit()


def test_a_mask_that_grows_is_noticed(monkeypatch):
    whole = masks.propose_masks
    monkeypatch.setattr(step, "propose_masks", lambda *args: {
        name: ~mask for name, mask in whole(*args).items()
    })  # fmt: skip
    with pytest.raises(AssertionError):
        fit(bp.Pruning(sparsity=0.5, gate="always", schedule="cubic"))


@pytest.mark.parametrize(
    "change",
    [
        {"decision": "refused"},
        {"log_threshold": 1e9},
        {"sparsity": 0.25},
        {"after": bp.LogJoint(0.0, 0.0)},
    ],
)
def test_a_record_that_does_not_fit_is_noticed(monkeypatch, change):
    import invariants

    step = invariants.prune_step

    def lying(*args, **options):
        state, record = step(*args, **options)
        return state, replace(record, **change) if record.decision == "pruned" else record

    monkeypatch.setattr(invariants, "prune_step", lying)
    with pytest.raises(AssertionError):
        fit(bp.Pruning(sparsity=0.5, gate="propose", beta=0.1, schedule="constant"))


def test_with_regrowth_masks_may_be_lifted():
    fit(replace(HALF, regrow=True))
    torch.manual_seed(1)
    fit(replace(HALF, regrow=True, criterion="random"))
