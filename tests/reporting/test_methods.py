"""The printed command makes the run again."""

import pytest

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
