"""The command line: one module for each command."""

from pyro_bayesprune.cli.app import main

__all__ = ["main"]
