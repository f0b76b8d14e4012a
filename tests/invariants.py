"""What must hold in every training: checked in those that the tests run in their process.

`conftest` puts `CheckedTrainer` and `checked_step` in the place of what `train` uses.
"""

import math

import torch

from pyro_bayesprune.inference.metrics import sparsity
from pyro_bayesprune.pruning import step
from pyro_bayesprune.training import loop
from pyro_bayesprune.training.trainer import Trainer


def check_zero(trainer, masks):
    """Pruned weights are exactly zero, and so are their moments or Adam's second one infinite."""
    for name, mask in masks.items():
        param = trainer.optim.params[name]
        if param.shape != mask.shape:
            continue  # a vector of the survivors, which has no other entries
        state = trainer.optim.torch_optim.state.get(param, {})
        moments = {k: v for k, v in state.items() if getattr(v, "shape", None) == mask.shape}
        if not all(values[mask].isfinite().all() for values in (param, *moments.values())):
            continue  # it diverges, which ends the training
        assert not param.detach()[~mask].any(), f"{name}: what is pruned is not zero"
        fixed = "exp_avg_sq" in moments and moments["exp_avg_sq"][~mask].isinf().all()
        zero = not any(moment[~mask].any() for moment in moments.values())
        assert zero or (fixed and trainer.elbo.unmasked), f"{name}: what is pruned is not zero"


class CheckedTrainer(Trainer):
    """A trainer that looks at its pruned weights after every step of its optimiser."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        step = self.svi.step

        def checked(*batch):
            loss = step(*batch)
            check_zero(self, self.elbo.masks)
            return loss

        self.svi.step = checked

    def project(self, masks, *, persist):
        super().project(masks, persist=persist)
        check_zero(self, masks)


def expected_zeros(masks, level, scope):
    """How many weights are zero at a level, by site (of all together for a global scope)."""
    if scope == "global":
        return round(sum(m.numel() for m in masks.values()) * level)
    if scope == "unit":
        return {n: round(len(m) * level) * (m.numel() // len(m)) for n, m in masks.items()}
    return {n: round(m.numel() * level) for n, m in masks.items()}


def check_counts(before, masks, record, pruning):
    """An accepted step at its target has exactly the zeros that the target says, or more before."""
    if record.decision != "pruned" or len(record.tries) > 1 or pruning.sparsity == "auto":
        return
    zeros = {name: int((~mask).sum()) for name, mask in masks.items()}
    old = {name: int((~mask).sum()) for name, mask in before.items()}
    expected = expected_zeros(masks, record.target, pruning.scope)
    if pruning.scope == "global":
        assert sum(zeros.values()) == max(expected, sum(old.values()))
    elif pruning.scope == "layer":
        assert zeros == {n: max(expected[n], old[n]) for n in masks}
    else:  # a unit may have been emptied, weight by weight, before
        assert all(zeros[n] >= expected[n] for n in masks)


def check_record(record, pruning):
    """Parts add up, and the decision follows from the record."""
    for attempt in record.tries:
        factor = attempt.bayes_factor
        parts = factor.log_likelihood_ratio + factor.log_prior_ratio + factor.log_occam_ratio
        assert factor.log == parts and not math.isnan(parts)
    moves_as_judged = pruning.update == "condition" or pruning.judge == "project"
    if record.decision == "pruned" and pruning.evaluation == "full" and moves_as_judged:
        change = record.after.total - record.before.total
        joint = record.bayes_factor.log - record.bayes_factor.log_occam_ratio
        assert math.isclose(change, joint, rel_tol=1e-9, abs_tol=1e-6)
    if record.decision != "pruned":
        assert repr(record.after) == repr(record.before)  # NaN, too, is unknown in both
    passed = [t.bayes_factor.log > record.log_threshold for t in record.tries]
    if pruning.gate == "propose" and record.tries:
        assert not any(passed[:-1]) and (record.decision == "pruned") == passed[-1]
    if pruning.gate == "previous" and record.recorded is not None and record.tries:
        assert record.recorded > record.log_threshold


prune_step = step.prune_step


def checked_step(model, state, data, pruning, **options):
    """`prune_step`, with a look at what it returns."""
    new, record = prune_step(model, state, data, pruning, **options)
    before = {n: m | pruning.regrow for n, m in state.masks.items()}
    for name, mask in new.masks.items():
        assert not (mask & ~before[name]).any(), f"{name}: a mask has grown"
        assert not new.weights[name][~mask].any(), f"{name}: a pruned weight is not zero"
        if pruning.update == "project":
            assert torch.equal(new.weights[name][mask], state.weights[name][mask])
    assert record.sparsity == sparsity(new.masks)
    check_counts(before, new.masks, record, pruning)
    check_record(record, pruning)
    return new, record


def install(patch):
    """Let every training of this process be checked."""
    patch.setattr(loop, "Trainer", CheckedTrainer)
    patch.setattr(loop, "prune_step", checked_step)
