"""Attacks on runs, files and input: what is tried, how often, and what must happen.

An attack is a generator function ``(tries, rng, folder)`` that yields, for each try, what happened
in a few words, and fails an assertion where something was lost, wrong or silent. `test_attacks`
runs the quick form of all of them, ``python tests/faults/attack.py`` the full one, and reports.
"""

import os
import random
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

import pyro_bayesprune as bp
from pyro_bayesprune.cli.app import main
from pyro_bayesprune.experiments import folders
from pyro_bayesprune.experiments.config import Config, configure

TIMES = ["seconds_training", "seconds_step"]
CONFIG = configure(hidden=(8,), epochs=3, batch_size=256, learning_rate=0.01, beta=0.5)
OPTIONS = "--hidden 8 --epochs 3 --batch_size 256 --learning_rate 0.01 --beta 0.5".split()
Run = Callable[[int, random.Random, Path], Iterator[str]]


@dataclass(frozen=True)
class Attack:
    """What is tried, how often in the full and in the quick form (0: full only), and by what."""

    area: str
    what: str
    full: int
    quick: int
    run: Run

    def outcomes(self, tries: int, folder: Path, seed: int = 0) -> Counter:
        """Try it; count what happened."""
        folder.mkdir(parents=True, exist_ok=True)
        return Counter(self.run(tries, random.Random(f"{self.what} {seed}"), folder))


ATTACKS: list[Attack] = []


def attack(area: str, what: str, *, full: int, quick: int) -> Callable[[Run], Run]:
    """Enter a function among the attacks."""

    def enter(run: Run) -> Run:
        ATTACKS.append(Attack(area, what, full, quick, run))
        return run

    return enter


def run(config: Config, out: Path) -> Path:
    """Run a configuration without a word; return its folder."""
    return bp.run(config, out=out, progress=False).folder


def assert_same(first: Path, second: Path) -> None:
    """Two run folders hold the same weights, masks and history (times excepted), byte for byte."""
    name = "weights.safetensors"
    assert (first / name).read_bytes() == (second / name).read_bytes(), "weights or masks differ"
    histories = [folders.read_history(folder).drop(columns=TIMES) for folder in (first, second)]
    pd.testing.assert_frame_equal(*histories, check_exact=True)
    left = {path.name for path in second.iterdir()}
    expected = {"config.json", "history.csv", "result.json", "weights.safetensors"}
    assert {n for n in left if ".damaged" not in n} == expected, left


def fork(act: Callable[[], object], errors: Path | None = None) -> int:
    """Run something in a forked process (all is imported there already); return its process id."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside idle threads
        pid = os.fork()
    if pid == 0:
        try:
            told = os.open(errors or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(told, 1), os.dup2(told, 2)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
            torch.set_num_threads(1)
            code = act()
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code if isinstance(code, int) else 0)
        except BaseException as error:
            print(f"Traceback: {error!r}", file=sys.stderr, flush=True)
            os._exit(99)
    return pid


def ended(pid: int) -> int:
    """Wait for a process; return its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def command(*words: object, folder: Path, before: Callable[[], object] = lambda: None):
    """Run the command line in a forked process; return its exit code and lines of error output."""
    told = folder / "told.txt"

    def act() -> int:
        before()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        return main([str(word) for word in words])

    return ended(fork(act, told)), told.read_text(errors="replace").splitlines()


def assert_one_line(code: int, lines: list[str], *words: str) -> None:
    """A mistake or failure was told in one line that has the words, without a traceback."""
    last = [line for line in lines if line.startswith("bayesprune: error: ")]
    assert code in (1, 2) and len(last) == 1, (code, lines)
    assert not any("Traceback" in line for line in lines), lines
    assert all(word in last[0] for word in words), (words, last)


from attacks import (  # noqa: E402, F401
    damage,
    faults,
    inputs,
    kills,
    numerics,
    processes,
    safety,
    situations,
)
