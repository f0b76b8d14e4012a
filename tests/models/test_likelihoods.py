"""A likelihood is an event for each example."""

import torch

import pyro_bayesprune as bp


def test_the_gaussian_likelihood_is_an_event_for_each_example():
    for outputs, event in ((torch.zeros(5), 0), (torch.zeros(5, 2), 1), (torch.zeros(5, 2, 3), 2)):
        target = bp.gaussian(0.1)(outputs)
        assert target.batch_shape == (5,) and len(target.event_shape) == event
