"""Denormal numbers are flushed in all threads, and only where they should be."""

import os
import subprocess
import sys

import pytest
import torch

from pyro_bayesprune._utils.process import flushed_denormals, set_threads


def test_flushed_denormals_reach_all_threads_and_go_back():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    denormal = torch.full((1 << 20,), 1e-40)
    assert (denormal * 1.0).all()  # the workers run by now
    with flushed_denormals():
        assert not (denormal * 1.0).any()
    assert (denormal * 1.0).all()
    torch.set_num_threads(threads)


def test_idle_threads_sleep_unless_the_user_decides():
    code = "import os, pyro_bayesprune; print(os.environ['OMP_WAIT_POLICY'])"
    for setting, expected in (({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")):
        environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"} | setting
        output = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
        assert output.strip() == expected


def test_a_number_of_threads_is_restored_and_must_be_positive():
    before = torch.get_num_threads()
    with set_threads(2):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == before
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"), set_threads(0):
        pass
