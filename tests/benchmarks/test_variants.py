"""The memory of a variant is measured in a new process."""

import pytest
from torch import nn

from pyro_bayesprune.benchmarks import variants
from pyro_bayesprune.export import files


@pytest.mark.slow
def test_memory_of_a_fresh_process(tmp_path):
    net = nn.Sequential(nn.Linear(2000, 2000), nn.Linear(2000, 5)).eval()
    files.write(net, tmp_path / "net", (2000,))
    memory = variants.peak_memory("dense", tmp_path / "net", (64, 2000))
    if memory is None:
        pytest.skip("this platform does not tell")
    assert 2000 * 2000 * 4 * 0.9 < memory < 2000 * 2000 * 4 * 8
    with pytest.raises(RuntimeError, match="cannot be read as a network"):
        variants.peak_memory("dense", tmp_path / "none", (64, 2000))
