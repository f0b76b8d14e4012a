"""Small grids, and the processes of a grid on the command line."""

import os
import sys
import time

import psutil

from pyro_bayesprune.experiments.designs import product

SMALL_GRID = {"hidden": ((16,),), "epochs": (2,), "network": ("fcn",)}
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def small_grid(**axes):
    """A grid of small runs on digits."""
    return product("paper", **({"method": ("random",), "sparsity": (0.5,)} | SMALL_GRID | axes))


def command(out, seeds, jobs=2):
    """The command of a grid of small runs that last long enough to be killed."""
    settings = out.parent / "small.yaml"
    settings.write_text("hidden: [16]\n")
    words = ["grid", "--datasets", "digits", "--networks", "fcn", "--methods", "random"]
    words += ["--sparsities", "0.5", "--seeds", seeds, "--epochs", "40", "--out", str(out)]
    words += ["--jobs", str(jobs), "--config", str(settings)]
    return [sys.executable, "-m", "pyro_bayesprune.cli", *words]


def finished(out):
    """How many runs have finished."""
    return len(list(out.glob("*/result.json")))


def workers(process):
    """The worker processes of a grid."""
    children = psutil.Process(process.pid).children(recursive=True)
    return [c for c in children if "popen_loky" in " ".join(c.cmdline())]


def wait_until(condition, seconds=120):
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened in time"
        time.sleep(0.05)
