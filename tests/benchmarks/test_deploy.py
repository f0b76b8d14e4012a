"""The deployment benchmark: correct outputs of all variants, and complete tables."""

import json

import pytest
import torch
from helpers import report_script
from torch import nn

import pyro_bayesprune as bp
from pyro_bayesprune._utils.tables import fill
from pyro_bayesprune.benchmarks import deploy

SHAPE = (1, 8, 8)
QUICK = deploy.Setting(batches=(1, 64), rounds=3, seconds=0.0002)


def pruned(share=0.9):
    net = bp.FCN(SHAPE, 4, (30, 20, 10)).eval()
    with torch.no_grad():
        for layer in (m for m in net if isinstance(m, nn.Linear)):
            layer.weight.mul_(torch.rand(layer.weight.shape) >= share)
    return net


@pytest.mark.slow
def test_a_table_of_all_variants():
    torch.manual_seed(0)
    net, x, y = pruned(), torch.randn(80, *SHAPE), torch.randint(4, (80,))
    threads = torch.get_num_threads()
    result = deploy.deploy_table(net, x, y, setting=QUICK)
    assert torch.get_num_threads() == threads
    assert [row["name"] for row in result["rows"]] == [v.name for v in deploy.VARIANTS]
    accuracy = (net(x).argmax(1) == y).double().mean().item()
    for row in result["rows"][1:]:
        assert row["difference"] < 1e-5
        assert row["accuracy"] == pytest.approx(accuracy)
    assert result["rows"][0]["accuracy"] is None  # of random weights
    exact = [row for row in result["formats"] if row["values"] == "float32"]
    assert len(result["formats"]) == 12 and max(row["difference"] for row in exact) < 1e-5
    again = json.loads(json.dumps(result))
    text = deploy.table(again)
    assert text == deploy.table(result)
    assert all(f"| {v.name} |" in text for v in deploy.VARIANTS)


@pytest.mark.slow
def test_a_network_that_is_no_chain():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.out = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.out(x + self.fc(x).relu())

    net, x, y = Residual().eval(), torch.randn(70, 6), torch.randint(3, (70,))
    with pytest.warns(UserWarning, match="without compaction"):
        result = deploy.deploy_table(net, x, y, dense=Residual().eval(), setting=QUICK)
    assert max(row["difference"] for row in result["rows"][1:]) < 1e-5


def test_variants_without_a_gain_are_marked():
    assert deploy._gain([1.5, 1.2, 2.0]) == "1.50 [1.20, 2.00]"
    assert deploy._gain([1.5, 1.0, 2.0]).endswith("**no gain**")


def test_the_page_shows_the_stored_measurements():
    script = report_script("deploy")
    text = script.PAGE.read_text()
    assert fill(text, script.texts()) == text


def test_targets_that_are_no_classes_are_refused():
    with pytest.raises(ValueError, match=r"must be classes \(n,\), got torch.float32 of shape"):
        deploy.deploy_table(pruned(), torch.randn(5, *SHAPE), torch.randn(5, 1))
