"""A little of every attack; ``make attack`` runs all of it."""

import pytest
from attacks import ATTACKS

SLOW = ("kills", "faults")  # they start processes


def quick():
    for attack in ATTACKS:
        marks = [pytest.mark.slow] if attack.area in SLOW else []
        if attack.quick:
            yield pytest.param(attack, id=f"{attack.area}: {attack.what}", marks=marks)


@pytest.mark.parametrize("attack", list(quick()))
def test_an_attack(attack, tmp_path):
    outcomes = attack.outcomes(attack.quick, tmp_path)
    assert sum(outcomes.values()) > 0


def test_what_is_tried_has_a_name_of_its_own():
    assert len({attack.what for attack in ATTACKS}) == len(ATTACKS) >= 40
