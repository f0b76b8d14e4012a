"""The recipe for several processes: one process and two take the same decisions."""

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "own_loop.md"


def script():
    """The recipe as the page prints it."""
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (recipe,) = [block for block in blocks if "DistributedDataParallel" in block]
    return recipe


def trained(folder, processes):
    folder.mkdir()
    (folder / "train.py").write_text(script())
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    subprocess.run([sys.executable, *launch, "train.py"], cwd=folder, check=True)
    return torch.load(folder / "checkpoint.pt", weights_only=True)


@pytest.mark.slow
def test_two_processes_prune_like_one(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(PAGE.parents[1]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    one, two = (trained(tmp_path / str(n), n) for n in (1, 2))
    for name, mask in one["pruner"]["masks"].items():
        assert torch.equal(two["pruner"]["masks"][name], mask) and not mask.all()
    for name, weight in one["net"].items():
        assert torch.dist(two["net"][name], weight) <= 1e-6 * weight.norm(), name
    decisions = [pd.DataFrame(s["pruner"]["history"])["decision"].tolist() for s in (one, two)]
    assert decisions[0] == decisions[1] and "pruned" in decisions[0]
