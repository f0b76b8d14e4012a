"""Denormal numbers are flushed in all threads, and only where they should be."""

import torch

from pyro_bayesprune._utils.process import flushed_denormals


def test_flushed_denormals_reach_all_threads_and_go_back():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    denormal = torch.full((1 << 20,), 1e-40)
    assert (denormal * 1.0).all()  # the workers run by now
    with flushed_denormals():
        assert not (denormal * 1.0).any()
    assert (denormal * 1.0).all()
    torch.set_num_threads(threads)
