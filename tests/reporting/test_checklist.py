"""The checklist states which items are met."""

from helpers.made_up_runs import a_run

from pyro_bayesprune.reporting import checklist


def test_the_checklist_states_which_items_are_met():
    items = {item.text: item.met for item in checklist.checklist([a_run()])}
    assert items["Hardware and software versions are stated."]
    assert not items["Random pruning is included as a baseline."]
    assert len(items) == 19
