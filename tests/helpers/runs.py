"""Helpers for tests of run folders: small runs, their interruption and their comparison."""

import pytest

import pyro_bayesprune as bp
from helpers import TIMES
from pyro_bayesprune.experiments import folders
from pyro_bayesprune.experiments.config import configure

DONE = {"config.json", "history.csv", "result.json", "weights.safetensors"}
SMALL_RUN = {"hidden": (16, 16), "epochs": 2, "learning_rate": 0.01}


def quiet_run(config, out, **options):
    """Run a configuration without progress output."""
    return bp.run(config, out=out, progress=False, **options)


def file_names(folder):
    """The names of the files in a folder."""
    return {path.name for path in folder.iterdir()}


def interrupted(config, out, monkeypatch, epochs=2):
    """Run a configuration, and interrupt it after some epochs."""
    saved, write = [], folders.write_history

    def write_and_interrupt(folder, rows):
        write(folder, rows)
        saved.append(len(rows))
        if len(saved) == epochs:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(folders, "write_history", write_and_interrupt)
        with pytest.raises(KeyboardInterrupt):
            quiet_run(config, out)
    return out / config.id


def same_runs(first, second):
    """Return whether two run folders have identical weights, masks and histories."""
    name = "weights.safetensors"
    histories = [folders.read_history(folder).drop(columns=TIMES) for folder in (first, second)]
    return (first / name).read_bytes() == (second / name).read_bytes() and histories[0].equals(
        histories[1]
    )


def small_config(method="bayes_magnitude", **settings):
    """A configuration of a very short run."""
    return configure("paper", method, **(SMALL_RUN | settings))
