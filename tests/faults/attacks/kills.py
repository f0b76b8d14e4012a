"""SIGKILL, at any moment; then the same run or grid again."""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import joblib

from attacks import CONFIG, assert_same, attack, ended, fork, run
from pyro_bayesprune._utils import files as atomic
from pyro_bayesprune.experiments import folders, grids
from pyro_bayesprune.experiments.config import Config

CONFIGS = [replace(CONFIG, seed=seed) for seed in (0, 1, 2)]


def told(folder: Path) -> str:
    """How far a run had come when it was killed."""
    if folders.is_finished(folder):
        return "had finished; same"
    begun = (folder / "checkpoint.pt").exists()
    return "went on; same" if begun else "started over, nothing was saved yet; same"


def seconds_of(act) -> float:
    """How long something takes, undisturbed, in a process of its own."""
    started = time.perf_counter()
    assert ended(fork(act)) == 0
    return time.perf_counter() - started


@attack("kills", "SIGKILL of a run, at a random moment", full=25, quick=2)
def killed_runs(tries: int, rng: Random, folder: Path) -> Iterator[str]:
    run(CONFIG, folder / "whole")  # in this process, so that its children find all imported
    seconds = seconds_of(lambda: run(CONFIG, folder / "timed"))
    for number in range(tries):
        out = folder / str(number)
        pid = fork(lambda out=out: run(CONFIG, out))
        time.sleep(rng.uniform(0, seconds))
        os.kill(pid, signal.SIGKILL)
        ended(pid)
        what = told(out / CONFIG.id)
        assert_same(folder / "whole" / CONFIG.id, run(CONFIG, out))
        yield what


def die() -> None:
    """Kill this process as the system does: nothing runs any more."""
    os.kill(os.getpid(), signal.SIGKILL)


class Half:
    """A file that is written half, and then the process dies."""

    def __init__(self, path: Path, mode: str) -> None:
        self.file = open(path, mode)

    def __enter__(self) -> "Half":
        return self

    def __exit__(self, *exc: object) -> None:
        self.file.close()

    def write(self, content: bytes) -> None:
        self.file.write(content[: len(content) // 2])
        self.file.flush()
        die()


def dying_at(stage: str, number: int) -> None:
    """Let this process die at its ``number``-th write: half way, before or after the renaming."""
    seen, replace_, open_ = [0], os.replace, open

    def write(path: Path, mode: str):
        seen[0] += 1
        return Half(path, mode) if stage == "half" and seen[0] == number else open_(path, mode)

    def rename(source: object, target: object) -> None:
        if stage == "before" and seen[0] == number:
            die()
        replace_(source, target)
        if stage == "after" and seen[0] == number:
            die()

    atomic.open, os.replace = write, rename  # type: ignore[attr-defined]


WRITES = 2 + 2 * CONFIG.epochs + 4  # config, data; two an epoch; config, history, weights, result


@attack("kills", "SIGKILL of a run while a file is written or renamed", full=15, quick=3)
def killed_writes(tries: int, rng: Random, folder: Path) -> Iterator[str]:
    whole = run(CONFIG, folder / "whole")
    for number in range(tries):
        stage, write = ("half", "before", "after")[number % 3], rng.randint(1, WRITES)
        out = folder / str(number)
        pid = fork(lambda s=stage, w=write, o=out: (dying_at(s, w), run(CONFIG, o)))
        assert ended(pid) == -signal.SIGKILL, (stage, write)
        what = told(out / CONFIG.id)
        assert_same(whole, run(CONFIG, out))
        yield what


def grid(configs: list[Config], out: Path, **options: Any) -> list[grids.Outcome]:
    """Run a grid on one thread: a process whose threads were started before a fork would hang."""
    with mock.patch.object(joblib, "cpu_count", lambda: 1):
        return grids.grid(configs, out=out, **options)


def run_grid(configs: list[Config], out: Path) -> None:
    outcomes = grid(configs, out)
    assert {outcome.status for outcome in outcomes} <= {"done", "skipped"}, outcomes


@attack("kills", "SIGKILL of a grid of three runs, at a random moment", full=10, quick=1)
def killed_grids(tries: int, rng: Random, folder: Path) -> Iterator[str]:
    run_grid(CONFIGS, folder / "whole")
    seconds = seconds_of(lambda: run_grid(CONFIGS, folder / "timed"))
    for number in range(tries):
        out = folder / str(number)
        pid = fork(lambda out=out: run_grid(CONFIGS, out))
        time.sleep(rng.uniform(0, seconds))
        os.kill(pid, signal.SIGKILL)
        ended(pid)
        done = sum(folders.is_finished(out / config.id) for config in CONFIGS)
        run_grid(CONFIGS, out)
        for config in CONFIGS:
            assert_same(folder / "whole" / config.id, out / config.id)
        shutil.rmtree(out)
        yield f"went on with {done} of {len(CONFIGS)} done; same"
