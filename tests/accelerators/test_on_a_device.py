"""The cases in ``on_device_*.py`` pass on an imitated device, each file in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from accelerators import imitation

CASES = sorted(Path(__file__).parent.glob("on_device_*.py"))


@pytest.mark.slow
@pytest.mark.skipif(not imitation.AVAILABLE, reason="this version of torch cannot imitate a device")
@pytest.mark.parametrize("file", CASES, ids=lambda file: file.stem)
def test_the_cases_pass_on_another_device(file):
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:xdist", str(file)]
    environment = os.environ | {"BAYESPRUNE_TEST_DEVICE": imitation.NAME}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
