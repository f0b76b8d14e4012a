"""The state of a training at the end of an epoch, and the results of that epoch."""

import json
import math
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from pyro_bayesprune.inference.log_joint import LogJoint
from pyro_bayesprune.models.module import Masks, Weights
from pyro_bayesprune.pruning.record import Record

TOLERANCE = 1e-3  # of a sparsity: a small layer cannot have every share of zeros
PARTS = ("log_likelihood_ratio", "log_prior_ratio", "log_occam_ratio")


@dataclass(frozen=True)
class State:
    """A training at the end of an epoch. It is sufficient to continue the training bit for bit.

    Args:
        epoch: number of finished epochs.
        weights: a value for each latent site.
        masks: a bool tensor for each prunable site, True where a weight is kept.
        buffers: the module's buffers (BatchNorm's statistics).
        optimizer: state of the optimiser and its schedule; empty for a new optimiser.
        log_bf: log Bayes factor that the step recorded, nats over the data set.
    """

    epoch: int
    weights: Weights
    masks: Masks
    buffers: dict[str, Tensor]
    optimizer: dict[str, Any]
    log_bf: float | None

    @property
    def unscheduled(self) -> int:
        """Number of finished epochs that are unknown to the schedule, as in a loaded fit."""
        schedule = self.optimizer.get("scheduler") or {}
        return self.epoch - schedule.get("last_epoch", 0)

    def to(self, device: torch.device) -> "State":
        """Return the state on a device; an optimiser moves its own state when it loads it."""
        weights, masks, buffers = (
            {name: tensor.to(device) for name, tensor in part.items()}
            for part in (self.weights, self.masks, self.buffers)
        )
        return replace(self, weights=weights, masks=masks, buffers=buffers)


@dataclass(frozen=True)
class Epoch:
    """The results of an epoch: the record of its pruning step, losses and times.

    The score is the accuracy of classes and the RMSE of other targets (`inference.targets`); its
    name is part of the columns' names. The norm of the log joint's gradient (`mode.gradient_norm`)
    is known for the last epoch only. The test results are reported as in the paper's curves. No
    decision uses them.
    """

    step: Record
    train_loss: float
    validation_loss: float
    validation_score: float
    test_loss: float
    test_score: float
    seconds_training: float
    seconds_step: float
    temperature: float = 1.0
    gradient_norm: float = math.nan
    score: str = "accuracy"

    def row(self) -> dict[str, Any]:
        """Return the epoch as a row of the history: numbers and strings only."""
        step = self.step
        measures = {
            "train_loss": self.train_loss,
            "validation_loss": self.validation_loss,
            f"validation_{self.score}": self.validation_score,
            "test_loss": self.test_loss,
            f"test_{self.score}": self.test_score,
        }
        tries = [[t.sparsity, *_columns(t.bayes_factor, *PARTS).values()] for t in step.tries]
        return {
            "epoch": step.epoch,
            **measures,
            **_log_joint_columns(step.before, "before"),
            **_log_joint_columns(step.after, "after"),
            **_bayes_factor_columns(step),
            **_columns(step, "recorded", "log_threshold", "decision", "prior_decides"),
            "tries": len(step.tries),
            "tried": json.dumps(tries),
            **_columns(step, "target", "sparsity_before", "sparsity"),
            **{f"sparsity/{name}": value for name, value in step.layers.items()},
            "projected": " ".join(step.projected),
            **_columns(self, "gradient_norm", "temperature", "seconds_training", "seconds_step"),
        }

    def progress(self) -> dict[str, str]:
        """Return the values that a progress bar displays, formatted."""
        numbers = {
            "loss": self.train_loss,
            self.score: self.validation_score,
            "sparsity": self.step.sparsity,
        }
        values = {name: f"{value:.4f}" for name, value in numbers.items() if not math.isnan(value)}
        return values | {"step": self.step.decision}


def missed_target(history: pd.DataFrame) -> float | None:
    """Return the last target sparsity of a history if it was not reached, else None.

    With ``sparsity="auto"`` there is no target.
    """
    last = history.iloc[-1]
    missed = last["target"] - last["sparsity"] > TOLERANCE and last["target"] < 1
    return float(last["target"]) if missed else None


def _columns(source: object, *names: str) -> dict[str, Any]:
    return {name: getattr(source, name) for name in names}


def _log_joint_columns(joint: LogJoint, when: str) -> dict[str, float]:
    return {
        f"log_likelihood_{when}": joint.log_likelihood,
        f"log_prior_{when}": joint.log_prior,
        f"log_joint_{when}": joint.total,
    }


def _bayes_factor_columns(step: Record) -> dict[str, Any]:
    factor, (low, high) = step.bayes_factor, step.interval
    return {
        "kind": factor.kind,
        "log_bf": factor.log,
        "log_bf_low": low,
        "log_bf_high": high,
        "data_read": step.data_read,
        **_columns(factor, *PARTS),
        "bf_per_datum": factor.value("datum"),
    }
