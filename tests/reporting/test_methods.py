"""The printed command makes the run again."""

import pytest
from helpers.made_up_runs import a_run

import pyro_bayesprune as bp
from pyro_bayesprune.cli.app import parse
from pyro_bayesprune.cli.common import configuration
from pyro_bayesprune.reporting import methods


@pytest.mark.parametrize("config", [
    bp.configure(), bp.configure("paper", "magnitude", sparsity=0.99, hidden=(20, 10)),
    bp.configure(dataset="a b;c.safetensors", regrow=True),
])  # fmt: skip
def test_the_command_makes_the_run_again(config):
    import shlex

    _, *arguments = shlex.split(methods.command(config.to_dict()))
    assert configuration(vars(parse(arguments[0], arguments[1:]))) == config


def test_the_sentences_name_the_threshold_of_gates_that_have_one_and_further_trainings():
    (text,) = methods.methods_text([a_run()])
    assert text.endswith("gate retain).")
    (text,) = methods.methods_text([a_run(gate="propose", restart="rewind", rounds=3)])
    assert "gate propose, beta 0.95 per datum). After 3 such training(s)" in text
