"""The checklist states which items are met."""

from helpers.made_up_runs import a_run

from pyro_bayesprune.reporting import checklist


def test_the_checklist_states_which_items_are_met():
    items = {item.text: item.met for item in checklist.checklist([a_run()])}
    assert items["Hardware and software versions are stated."]
    assert not items["Random pruning is included as a baseline."]
    assert len(items) == 19


def met(runs, start):
    return next(item.met for item in checklist.checklist(runs) if item.text.startswith(start))


def test_a_dense_control_is_no_small_network():
    pruned = a_run(compression_ratio=1.5)
    same = a_run(sparsity=0.0, parameters=1000)
    assert not met([pruned, same], "A small dense network")
    assert met([pruned, same, a_run(sparsity=0.0, parameters=700)], "A small dense network")
    other = a_run(sparsity=0.0, parameters=700, dataset="mnist")
    assert not met([pruned, other], "A small dense network")


def test_gates_are_compared_if_all_else_is_equal():
    always = a_run(gate="always")
    assert met([always, a_run()], "Pruning with a gate")
    assert not met([always, a_run(criterion="random")], "Pruning with a gate")
