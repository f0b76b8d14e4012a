"""Errors of run folders."""


class RunError(Exception):
    """A run folder that is in use, damaged, or not a run; the message says which."""


class Busy(RunError):
    """Another process works on the run."""
