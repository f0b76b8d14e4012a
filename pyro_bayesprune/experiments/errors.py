"""Errors of run folders."""


class RunError(Exception):
    """A run folder is in use, damaged, or not a run folder; the message states which."""


class Busy(RunError):
    """Another process is working on the run."""
