"""Runs that are killed or signalled from outside go on and end the same."""

import os
import signal
import subprocess
import sys
import time

import pytest
from helpers.runs import DONE, file_names, same_runs

from pyro_bayesprune.experiments.config import configure
from pyro_bayesprune.experiments.folders import is_finished

OPTIONS = ["--hidden", "64,64", "--batch_size", "16", "--epochs", "12"]
KILLABLE = configure(hidden=(64, 64), batch_size=16, epochs=12)


def start(out):
    """Start a run on digits in a process of its own."""
    command = [sys.executable, "-m", "pyro_bayesprune.cli", "run", *OPTIONS, "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def ended(process):
    """Wait for a process to end; return its code and its last line of error output."""
    _, errors = process.communicate(timeout=300)
    return process.returncode, errors.strip().splitlines()[-1:]


def await_epoch(process, folder, epoch):
    """Wait until a run's history has an epoch; its process must not have ended by then."""
    history = folder / "history.csv"
    deadline = time.monotonic() + 120
    while not history.exists() or len(history.read_text().splitlines()) <= epoch:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """An undisturbed run's folder, made by a process of the same kind."""
    out = tmp_path_factory.mktemp("undisturbed")
    assert ended(start(out))[0] == 0
    return out / KILLABLE.id


@pytest.mark.slow
def test_killed_at_several_moments(tmp_path, undisturbed):
    folder = tmp_path / KILLABLE.id
    for epoch, delay in ((0, 0.0), (1, 0.0), (3, 0.02), (5, 0.05), (8, 0.003), (11, 0.0)):
        process = start(tmp_path)
        await_epoch(process, folder, epoch) if epoch else time.sleep(1.5)
        time.sleep(delay)
        process.kill()
        assert ended(process)[0] == -signal.SIGKILL
        assert not is_finished(folder)
    assert ended(start(tmp_path))[0] == 0
    assert file_names(folder) == DONE
    assert same_runs(folder, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_the_message_says_how_to_resume(tmp_path, undisturbed, number, code):
    folder = tmp_path / KILLABLE.id
    process = start(tmp_path)
    await_epoch(process, folder, 2)
    process.send_signal(number)
    returned, [last] = ended(process)
    assert returned == code
    assert str(folder) in last and "Run the same command again to resume the run." in last
    assert {"checkpoint.pt", "history.csv"} <= file_names(folder)
    assert ended(start(tmp_path))[0] == 0
    assert same_runs(folder, undisturbed)
