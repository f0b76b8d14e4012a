"""Schedules are their formulas and end at their target."""

import pytest

import pyro_bayesprune as bp
from pyro_bayesprune.pruning.registry import SCHEDULES


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
