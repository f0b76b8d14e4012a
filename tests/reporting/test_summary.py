"""The first screen: cards, and the figure beside them."""

import pytest
import torch
from helpers.made_up_runs import a_run

from pyro_bayesprune.reporting import summary


def cards(*runs):
    return {card.name: card for card in summary.cards(runs)}


def test_the_cards_of_one_run():
    found = cards(a_run())
    values = {name: card.value for name, card in found.items()}
    assert values == {
        "Test accuracy": "95.00%", "NLL": "0.2", "ECE": "0.02", "Zeros": "90.00%",
        "Compression": "9.0×", "Accepted steps": "1 of 1", "Seeds": "1",
    }  # fmt: skip
    assert "no dense control" in found["Test accuracy"].note
    assert "Epochs without a step: 1." in found["Accepted steps"].note


def test_the_cards_of_several_runs_are_ranges_and_leave_out_dense_controls():
    dense = a_run(sparsity=0.0, test_accuracy=0.97, test_ece=0.5)
    found = cards(a_run(), a_run(sparsity=0.5, test_accuracy=0.96, achieved_sparsity=0.5), dense)
    assert found["Test accuracy"].value == "95.00% to 96.00%"
    assert found["Zeros"].value == "50.00% to 90.00%" and found["ECE"].value == "0.02"
    assert "without pruning: 97.00%" in found["Test accuracy"].note
    assert found["Accepted steps"].value == "2 of 2"


def test_a_dense_run_has_no_cards_of_pruning():
    assert set(cards(a_run(sparsity=0.0))) == {"Test accuracy", "NLL", "ECE", "Seeds"}
    assert summary.cards([]) == []


def test_a_regression_has_rmse_and_coverage():
    run = a_run(test_rmse=0.5, test_coverage_90=0.88)
    assert {"Test RMSE", "Coverage"} <= set(cards(run)) and "ECE" not in cards(run)


def test_the_size_of_a_file_is_that_of_what_export_writes(tmp_path):
    from pyro_bayesprune.export import write

    net = torch.nn.Sequential(torch.nn.Linear(200, 50), torch.nn.Linear(50, 10))
    with torch.no_grad():
        net[0].weight[torch.rand_like(net[0].weight) < 0.9] = 0
    sizes = summary._file_sizes(net.state_dict())
    for size, layout in zip(sizes, ("sparse", "safetensors"), strict=True):
        written = write(net, tmp_path / layout, (200,), format=layout) / 1000
        assert size == pytest.approx(written, abs=1.5)  # the card has about one kB
