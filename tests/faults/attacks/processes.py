"""Other processes and signals: two at once, Ctrl-C, SIGTERM, workers that die."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random
from unittest import mock

from helpers import grid_processes

from attacks import CONFIG, OPTIONS, assert_one_line, assert_same, attack, ended, fork, run
from attacks.kills import CONFIGS, run_grid, seconds_of
from pyro_bayesprune.cli import common
from pyro_bayesprune.cli.app import main
from pyro_bayesprune.experiments import grids


@attack("faults", "two processes on one run at once", full=8, quick=1)
def two_at_once(tries: int, rng: Random, folder: Path) -> Iterator[str]:
    whole = run(CONFIG, folder / "whole")
    for number in range(tries):
        out = folder / str(number)
        words = ["run", *OPTIONS, "--out", str(out)]
        told = [folder / f"told{i}.txt" for i in (0, 1)]
        pids = []
        for errors in told:
            pids.append(fork(lambda words=words: main(words), errors))
            time.sleep(rng.uniform(0, 0.3))
        codes = [ended(pid) for pid in pids]
        assert 0 in codes, codes
        for code, errors in zip(codes, told, strict=True):
            if code:
                assert_one_line(code, errors.read_text().splitlines(), "another process is working")
        run(CONFIG, out)
        assert_same(whole, out / CONFIG.id)
        yield "one ran, the other said so and left" if any(codes) else "the second found it done"


@attack("faults", "two grids on one folder at once", full=4, quick=1)
def two_grids(tries: int, rng: Random, folder: Path) -> Iterator[str]:
    run_grid(CONFIGS, folder / "whole")
    with mock.patch.object(grids, "PAUSE", 0.1):
        for number in range(tries):
            out = folder / str(number)
            pids = [fork(lambda out=out: run_grid(CONFIGS, out)) for _ in range(2)]
            assert [ended(pid) for pid in pids] == [0, 0]
            for config in CONFIGS:
                run(config, out)  # takes away what is left of locks
                assert_same(folder / "whole" / config.id, out / config.id)
            yield "shared the runs; no failure; same"


def signalled(number: signal.Signals, code: int, tries: int, rng: Random, folder: Path):
    whole = run(CONFIG, folder / "whole")
    seconds = seconds_of(lambda: run(CONFIG, folder / "timed"))
    for attempt in range(tries):
        out, told = folder / str(attempt), folder / "told.txt"

        def act(out: Path = out) -> int:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            read = common.configuration
            common.configuration = lambda given: (out.mkdir(), read(given))[1]
            return main(["run", *OPTIONS, "--out", str(out)])

        pid = fork(act, told)
        while not out.exists():  # before that, the command line does not yet listen
            time.sleep(0.001)
        time.sleep(rng.uniform(0, seconds))
        os.kill(pid, number)
        found, lines = ended(pid), told.read_text().splitlines()
        assert found in (0, code) and not any("Traceback" in line for line in lines), lines
        assert found == 0 or "stopped" in lines[-1], lines
        assert_same(whole, run(CONFIG, out))
        yield "had finished; same" if found == 0 else "said how to go on; went on; same"


@attack("faults", "Ctrl-C (SIGINT) at a random moment of a run", full=8, quick=1)
def interrupted(tries: int, rng: Random, folder: Path) -> Iterator[str]:
    yield from signalled(signal.SIGINT, 130, tries, rng, folder)


@attack("faults", "SIGTERM at a random moment of a run", full=8, quick=1)
def terminated(tries: int, rng: Random, folder: Path) -> Iterator[str]:
    yield from signalled(signal.SIGTERM, 143, tries, rng, folder)


def begun(out: Path) -> bool:
    return any(out.glob("*/checkpoint.pt"))


def gone(processes: list) -> bool:
    return not any(process.is_running() for process in processes)


def grid_at_work(folder: Path) -> tuple[Path, subprocess.Popen]:
    """Start a grid with two workers; return its folder of runs and it, once a run is under way."""
    out = folder / "out"
    out.mkdir(parents=True)
    process = subprocess.Popen(grid_processes.command(out, "0,1,2"), env=grid_processes.ENVIRONMENT,
                               stderr=subprocess.PIPE, text=True)  # fmt: skip
    grid_processes.wait_until(partial(begun, out), 200)
    return out, process


@attack("faults", "a grid's worker is killed (as for want of memory)", full=1, quick=0)
def killed_worker(tries: int, rng: Random, folder: Path) -> Iterator[str]:
    for number in range(tries):
        out, process = grid_at_work(folder / str(number))
        rng.choice(grid_processes.workers(process)).kill()
        _, told = process.communicate(timeout=400)
        assert process.returncode == 0 and grid_processes.finished(out) == 3, told
        yield "its run was taken up again; all done"


@attack("faults", "SIGTERM and SIGINT to a grid with two workers", full=2, quick=0)
def stopped_grid(tries: int, rng: Random, folder: Path) -> Iterator[str]:
    for number in range(tries):
        out, process = grid_at_work(folder / str(number))
        workers = grid_processes.workers(process)
        process.send_signal((signal.SIGTERM, signal.SIGINT)[number % 2])
        _, told = process.communicate(timeout=100)
        assert process.returncode in (143, 130) and "Traceback" not in told, told
        grid_processes.wait_until(partial(gone, workers), 60)
        again = subprocess.run(grid_processes.command(out, "0,1,2"), env=grid_processes.ENVIRONMENT,
                               capture_output=True, text=True)  # fmt: skip
        assert again.returncode == 0 and grid_processes.finished(out) == 3, again.stderr
        yield "it stopped with its workers; went on; all done"
