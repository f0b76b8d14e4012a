"""The checklist tells what is met."""

from helpers.made_up_runs import a_run

from pyro_bayesprune.reporting import checklist


def test_the_checklist_tells_what_is_met():
    items = {item.text: item.met for item in checklist.checklist([a_run()])}
    assert items["Hardware and versions."] and not items["Random pruning as a baseline."]
    assert len(items) == 19
