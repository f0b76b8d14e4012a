"""A network is called with one tensor, a tuple or a dictionary, and its outputs are one tensor."""

import pytest
import torch
from helpers import net_weights
from helpers.loaders import Tokens, TwoInputs
from torch import nn

import pyro_bayesprune as bp
from pyro_bayesprune.models.adapter import network_outputs


def test_inputs_of_all_forms():
    a, b, two = torch.randn(4, 3), torch.randn(4, 2), TwoInputs()
    other = {name: value + 1 for name, value in net_weights(two).items()}
    expected = torch.func.functional_call(two, other, (a, b))
    assert torch.equal(network_outputs(two, other, (a, b)), expected)
    assert torch.equal(network_outputs(two, other, {"b": b, "a": a}), expected)
    swapped = network_outputs(two, other, (b, a), lambda net, x: net(x[1], x[0]))
    assert torch.equal(swapped, expected)
    assert torch.equal(two.left.weight + 1, other["left.weight"])


def test_logits_of_an_object_and_of_a_dictionary():
    tokens = Tokens()
    x = {"ids": torch.arange(6).view(2, 3), "mask": torch.ones(2, 3)}
    weights = net_weights(tokens)
    expected = tokens(**x).logits
    assert torch.equal(network_outputs(tokens, weights, x), expected)
    as_dictionary = network_outputs(tokens, weights, x, lambda net, x: vars(net(**x)))
    assert torch.equal(as_dictionary, expected)


def test_a_tuple_of_outputs_needs_a_function():
    lstm, x = nn.LSTM(3, 2, batch_first=True), torch.randn(4, 5, 3)
    with pytest.raises(ValueError, match=r"LSTM must return one tensor.*got a tuple.*forward="):
        network_outputs(lstm, net_weights(lstm), x)
    outputs = network_outputs(lstm, net_weights(lstm), x, lambda net, x: net(x)[0][:, -1])
    assert outputs.shape == (4, 2)


def test_forward_must_be_a_function():
    with pytest.raises(ValueError, match="forward must be a function .*, got 'logits'"):
        bp.BayesianModule(nn.Linear(2, 2), bp.priors.normal(1.0), 3, forward="logits")
