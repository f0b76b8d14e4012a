"""The command line. Each command has a module of its own."""

from pyro_bayesprune.cli.app import main

__all__ = ["main"]
