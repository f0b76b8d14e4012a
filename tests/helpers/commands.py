"""What tests of the command line share."""

import json

from pyro_bayesprune.cli.app import main
from pyro_bayesprune.experiments.config import Config

TINY = ["--hidden", "8", "--epochs", "2", "--batch_size", "256"]


def called(capsys, *arguments):
    """Exit code, lines of output and lines of errors of a command."""
    code = main([str(argument) for argument in arguments])
    streams = capsys.readouterr()
    return code, streams.out.splitlines(), streams.err.splitlines()


def only_config(tmp_path):
    """The configuration of the one run there is."""
    [path] = tmp_path.glob("runs/*/config.json")
    return Config.from_dict(json.loads(path.read_text()))
