"""The state of a training at the end of an epoch, and what that epoch measured."""

import json
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyro_bayesprune.models.module import Masks, Weights
from pyro_bayesprune.pruning.record import Record


@dataclass(frozen=True)
class State:
    """A training at the end of an epoch: all that it needs to go on, bit for bit.

    Args:
        epoch: epochs that have passed.
        weights: a value for each latent site.
        masks: a bool tensor for each prunable site, True where a weight is kept.
        buffers: the module's buffers (BatchNorm's statistics).
        optimizer: state of the optimiser and its schedule; empty to start it anew.
        log_bf: log Bayes factor that the step recorded, nats over the data set.
    """

    epoch: int
    weights: Weights
    masks: Masks
    buffers: dict[str, Tensor]
    optimizer: dict[str, Any]
    log_bf: float | None


@dataclass(frozen=True)
class Epoch:
    """What an epoch saw: its pruning step's record, losses and times."""

    step: Record
    train_loss: float
    validation_loss: float
    validation_accuracy: float
    test_loss: float  # shown, as the paper's curves show it; nothing decides by it
    test_accuracy: float
    seconds_training: float
    seconds_step: float
    temperature: float = 1.0

    def row(self) -> dict[str, Any]:
        """Return the epoch as a row of the history: numbers and strings only."""
        step, factor = self.step, self.step.bayes_factor
        tries = [
            [t.sparsity, f.log_likelihood_ratio, f.log_prior_ratio, f.log_occam_ratio]
            for t in step.tries
            for f in [t.bayes_factor]
        ]
        return {
            "epoch": step.epoch,
            "train_loss": self.train_loss,
            "validation_loss": self.validation_loss,
            "validation_accuracy": self.validation_accuracy,
            "test_loss": self.test_loss,
            "test_accuracy": self.test_accuracy,
            "log_likelihood_before": step.before.log_likelihood,
            "log_prior_before": step.before.log_prior,
            "log_joint_before": step.before.total,
            "log_likelihood_after": step.after.log_likelihood,
            "log_prior_after": step.after.log_prior,
            "log_joint_after": step.after.total,
            "kind": factor.kind,
            "log_bf": factor.log,
            "log_bf_low": step.interval[0],
            "log_bf_high": step.interval[1],
            "data_read": step.data_read,
            "log_likelihood_ratio": factor.log_likelihood_ratio,
            "log_prior_ratio": factor.log_prior_ratio,
            "log_occam_ratio": factor.log_occam_ratio,
            "bf_per_datum": factor.value("datum"),
            "recorded": step.recorded,
            "log_threshold": step.log_threshold,
            "decision": step.decision,
            "prior_decides": step.prior_decides,
            "tries": len(tries),
            "tried": json.dumps(tries),
            "target": step.target,
            "sparsity_before": step.sparsity_before,
            "sparsity": step.sparsity,
            **{f"sparsity/{name}": value for name, value in step.layers.items()},
            "temperature": self.temperature,
            "seconds_training": self.seconds_training,
            "seconds_step": self.seconds_step,
        }
