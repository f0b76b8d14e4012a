"""The deploy benchmark: what it runs is right, and its tables say no more than its numbers."""

import copy
import json

import pytest
import torch
from helpers import report_script
from torch import nn

import pyro_bayesprune as bp
from pyro_bayesprune.benchmarks import deploy, deploy_tables, kernels, variants
from pyro_bayesprune.export import files

SHAPE = (1, 8, 8)
QUICK = kernels.Setting(batches=(1, 64), rounds=3, seconds=0.0002, memory=False)


def pruned(share=0.9):
    net = bp.FCN(SHAPE, 4, (30, 20, 10)).eval()
    with torch.no_grad():
        for layer in kernels.linear_layers(net).values():
            layer.weight.mul_(torch.rand(layer.weight.shape) >= share)
    return net


@pytest.mark.parametrize("kernel", kernels.KERNELS)
@pytest.mark.parametrize("bias", [True, False])
def test_kernels_compute_what_the_layer_does(kernel, bias):
    net = nn.Sequential(nn.Linear(9, 8, bias=bias), nn.ReLU(), nn.Sequential(nn.Linear(8, 3)))
    before = copy.deepcopy(net)
    fast = kernels.with_kernels(net, {"0": kernel, "2.0": kernel})
    with torch.inference_mode():
        for size in (1, 5):
            x = torch.randn(size, 9)
            torch.testing.assert_close(fast(x), net(x))
    assert str(net) == str(before)


def test_turns_alternate_and_are_counted():
    order = []
    runs = {name: lambda x, name=name: order.append(name) or x for name in "ab"}
    setting = kernels.Setting(rounds=4, seconds=0.0)
    times = kernels.latencies(runs, torch.zeros(1), setting)
    assert [len(t) for t in times.values()] == [4, 4]
    assert "".join(order) == "aaaaabbbbb" + "ab" * 4


def test_spread_and_speed_up():
    assert kernels.spread([3.0, 1.0, 2.0, 5.0, 4.0]) == [3.0, 2.0, 4.0]
    assert kernels.speed_up([2.0, 4.0, 6.0], [1.0, 1.0, 2.0]) == [3.0, 2.5, 3.5]


def test_no_gain_is_said():
    rows = {"network": "baked"}
    assert deploy_tables._gain([1.5, 1.2, 2.0], rows) == "1.50 [1.20, 2.00]"
    assert deploy_tables._gain([1.5, 1.0, 2.0], rows).endswith("**no gain**")


@pytest.mark.slow
def test_a_table_of_all_variants():
    torch.manual_seed(0)
    net, x, y = pruned(), torch.randn(80, *SHAPE), torch.randint(4, (80,))
    threads = torch.get_num_threads()
    result = deploy.deploy_table(net, x, y, setting=QUICK)
    assert torch.get_num_threads() == threads
    assert [row["name"] for row in result["rows"]] == [v.name for v in variants.VARIANTS]
    accuracy = (net(x).argmax(1) == y).double().mean().item()
    for row in result["rows"][1:]:
        assert row["difference"] < 1e-5
        assert row["accuracy"] == pytest.approx(accuracy)
    assert result["rows"][0]["accuracy"] is None  # of random weights
    exact = [row for row in result["formats"] if row["values"] == "float32"]
    assert len(result["formats"]) == 24 and max(row["difference"] for row in exact) < 1e-5
    again = json.loads(json.dumps(result))
    text = deploy_tables.table(again)
    assert text == deploy_tables.table(result)
    assert all(f"| {v.name} |" in text for v in variants.VARIANTS)
    assert len(result["layers"]) == 4 * len(QUICK.batches)


@pytest.mark.slow
def test_findings_and_a_network_that_is_no_chain():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.out = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.out(x + self.fc(x).relu())

    net, x, y = Residual().eval(), torch.randn(70, 6), torch.randint(3, (70,))
    with pytest.warns(UserWarning, match="left as it is"):
        result = deploy.deploy_table(net, x, y, dense=Residual().eval(), setting=QUICK)
    assert max(row["difference"] for row in result["rows"][1:]) < 1e-5
    assert "Accuracy" in report_script("deploy").findings(result)


@pytest.mark.slow
def test_memory_of_a_fresh_process(tmp_path):
    net = nn.Sequential(nn.Linear(2000, 2000), nn.Linear(2000, 5)).eval()
    files.write(net, tmp_path / "net", (2000,))
    found = variants.peak_memory("dense", tmp_path / "net", (64, 2000))
    if found is None:
        pytest.skip("this platform does not tell")
    assert 2000 * 2000 * 4 * 0.9 < found < 2000 * 2000 * 4 * 8
    with pytest.raises(RuntimeError, match="cannot be read as a network"):
        variants.peak_memory("dense", tmp_path / "none", (64, 2000))
