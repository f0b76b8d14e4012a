"""Decisions follow from their records."""

import pytest
from helpers import class_data, lifted, mlp

import pyro_bayesprune as bp


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
