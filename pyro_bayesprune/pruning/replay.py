"""The replay of recorded decisions: do they follow from what was recorded?"""

import json
import math
from typing import Protocol

import pandas as pd

from pyro_bayesprune.pruning.gates import accepts, is_closed
from pyro_bayesprune.pruning.registry import Evaluation, Gate


class Rules(Protocol):
    """What a decision goes by: `Pruning` and a run's configuration are such."""

    @property
    def gate(self) -> Gate:
        """The gate."""

    @property
    def evaluation(self) -> Evaluation:
        """Whether joint densities were computed (``full``)."""


def replay(history: pd.DataFrame, rules: Rules) -> list[int]:
    """Return the epochs whose recorded decision does not follow from their record.

    Candidates are compared with the threshold again, in order, by the gate; the parts of the log
    Bayes factor must add up, and an accepted one must be the difference of the log joints.

    Args:
        history: a row an epoch, as in `Fit.history` or history.csv.
        rules: the gate and the evaluation that the decisions went by.
    """
    rows = (row for _, row in history.iterrows())
    return [int(row["epoch"]) for row in rows if not _follows(row, rules)]


def _follows(row: pd.Series, rules: Rules) -> bool:
    tries = [sum(parts) for _, *parts in json.loads(row["tried"])]
    accepted = [accepts(rules.gate, log_bf, row["log_threshold"]) for log_bf in tries]
    closed = is_closed(rules.gate, row["recorded"], row["log_threshold"])
    if not tries:
        fits = row["decision"] == "unchanged" or (row["decision"] == "refused" and closed)
    else:
        decision = "pruned" if accepted[-1] else "refused"
        fits = row["decision"] == decision and not any(accepted[:-1]) and not closed
    change = row["log_joint_after"] - row["log_joint_before"]
    joint = row["log_bf"] - row["log_occam_ratio"]
    expected = joint if row["decision"] == "pruned" else 0.0
    last = tries[-1] if tries else 0.0
    known = rules.evaluation == "full"  # sequential evaluation computes no joint densities
    agree = _close(change, expected) if known else True
    return bool(fits and math.isclose(row["log_bf"], last) and agree)


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-6)
