"""Replay of recorded decisions: does each decision follow from its record?"""

import json
import math
from typing import Any

import pandas as pd

from pyro_bayesprune.pruning.gates import accepts, is_closed
from pyro_bayesprune.pruning.registry import Gate


def replay(history: pd.DataFrame, rules: Any) -> list[int]:  # noqa: ANN401
    """Return the epochs whose recorded decision does not follow from their record.

    The gate decides again on each recorded candidate. In addition, the parts of the log Bayes
    factor must add up, and that of an accepted candidate must be the difference of the log joints.

    Args:
        history: one row for each epoch, as in `Fit.history` or history.csv.
        rules: a `Pruning`, or the configuration of a run, which has the same settings.
    """
    rows = (row for _, row in history.iterrows())
    return [int(row["epoch"]) for row in rows if not _follows(row, rules)]


def _follows(row: pd.Series, rules: Any) -> bool:  # noqa: ANN401
    tries = [sum(parts) for _, *parts in json.loads(row["tried"])]
    last = tries[-1] if tries else 0.0
    log_bf, pruned = row["log_bf"], row["decision"] == "pruned"
    consistent = math.isclose(log_bf, last)
    moves_as_judged = rules.update == "condition" or rules.judge == "project"
    # Sequential evaluation computes no joint densities.
    if rules.evaluation == "full" and (moves_as_judged or not pruned):
        change = row["log_joint_after"] - row["log_joint_before"]
        expected = log_bf - row["log_occam_ratio"] if pruned else 0.0
        consistent &= math.isclose(change, expected, rel_tol=1e-9, abs_tol=1e-6)
    return bool(consistent and row["decision"] in _decisions(row, tries, rules.gate))


def _decisions(row: pd.Series, tries: list[float], gate: Gate) -> list[str]:
    """Return the decisions that the gate can have made on these log Bayes factors."""
    closed = is_closed(gate, row["recorded"], row["log_threshold"])
    if not tries:
        return ["unchanged", "refused"] if closed else ["unchanged"]
    accepted = [accepts(gate, log_bf, row["log_threshold"]) for log_bf in tries]
    if closed or any(accepted[:-1]):
        return []
    return ["pruned" if accepted[-1] else "refused"]
