"""The machine fails: disks, rights, other processes, signals, clocks, locales, vanished data."""

import locale
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from unittest import mock

from attacks import CONFIG, OPTIONS, assert_one_line, assert_same, attack, command, ended, fork, run
from attacks.kills import CONFIGS, WRITES, grid, seconds_of
from pyro_bayesprune.cli import common
from pyro_bayesprune.cli.app import main
from pyro_bayesprune.data.builtin import _digits
from pyro_bayesprune.data.files import write_file
from pyro_bayesprune.experiments import folders, grids
from pyro_bayesprune.experiments.errors import RunError

NOBODY = 65534


def failing_from(number: int):
    """Let every write from the ``number``-th on fail as on a full disk."""
    seen, fsync = [0], os.fsync

    def full(descriptor: int) -> None:
        seen[0] += 1
        if seen[0] >= number:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    return mock.patch.object(os, "fsync", full)


@attack("faults", "disk full (ENOSPC) from the n-th write of a run on, each n", full=12, quick=2)
def disk_full(tries: int, rng: Random, folder: Path) -> Iterator[str]:
    whole = run(CONFIG, folder / "whole")
    for number in rng.sample(range(1, WRITES + 1), tries):
        out = folder / str(number)
        with failing_from(number):
            try:
                run(CONFIG, out)
                raise AssertionError("the disk was full and nobody noticed")
            except OSError as error:
                assert "No space left" in str(error) and str(out) in str(error)
        saved = {p.name: p.read_bytes() for p in (out / CONFIG.id).iterdir() if p.suffix == ".pt"}
        assert all(".partial" not in path.name for path in (out / CONFIG.id).iterdir())
        if saved:
            assert folders.read_checkpoint(out / CONFIG.id) is not None
        assert_same(whole, run(CONFIG, out))
        yield "one error that names the file; went on; same"


@attack(
    "faults", "file size limit of the system (RLIMIT_FSIZE) hit by a checkpoint", full=3, quick=1
)
def size_limit(tries: int, rng: Random, folder: Path) -> Iterator[str]:
    whole = run(CONFIG, folder / "whole")
    for number in range(tries):
        out, limit = folder / str(number), rng.randint(2_000, 5_000)
        code, lines = command(
            *("run", *OPTIONS, "--out", out),
            folder=folder,
            before=lambda n=limit: resource.setrlimit(resource.RLIMIT_FSIZE, (n, n)),
        )
        assert_one_line(code, lines, "File too large", "checkpoint.pt")
        assert_same(whole, run(CONFIG, out))
        yield "one line that names the file; went on; same"


def without_rights(folder: Path):
    """Return what a process calls to have no right to write in a folder, root or not."""

    def drop() -> None:
        folder.chmod(0o555)
        if os.getuid() == 0:
            os.setgid(NOBODY)
            os.setuid(NOBODY)

    return drop


def reachable(folder: Path) -> None:
    """Let other users reach a folder."""
    for place in (folder, *folder.parents):
        if place.owner() == "root" and place != Path("/") and not place.stat().st_mode & 0o5:
            place.chmod(place.stat().st_mode | 0o55)


@attack("faults", "a folder without the right to write: a run begins, a finished one is read",
        full=2, quick=1)  # fmt: skip
def read_only(tries: int, rng: Random, folder: Path) -> Iterator[str]:
    run(CONFIG, folder / "before")  # what is imported late cannot be without rights
    for number in range(tries):
        out = folder / f"closed{number}"
        out.mkdir()
        reachable(folder)
        told = folder / "told.txt"
        told.touch()
        code, lines = command("run", *OPTIONS, "--out", out, folder=folder,
                              before=without_rights(out))  # fmt: skip
        assert_one_line(code, lines, "Permission denied", str(out))
        out.chmod(0o755)
        done = run(CONFIG, out)
        (done / "lock").touch()  # as a kill leaves it
        code, lines = command("run", *OPTIONS, "--out", out, folder=folder,
                              before=without_rights(done))  # fmt: skip
        assert code == 0, lines
        done.chmod(0o755)
        yield "one line that names the folder; the finished run is read"


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
    from attacks.kills import run_grid

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


def half_done(out: Path, epochs: int = 2) -> Path:
    """A run that fell over after some epochs."""
    write, seen = folders.write_history, []

    def fall(folder: Path, rows: list) -> None:
        write(folder, rows)
        seen.append(rows)
        if len(seen) == epochs:
            raise KeyboardInterrupt

    with mock.patch.object(folders, "write_history", fall):
        try:
            run(CONFIG, out)
        except KeyboardInterrupt:
            pass
    return out / CONFIG.id


@attack("faults", "the clock is set back or forth while a run is interrupted", full=4, quick=2)
def clock(tries: int, rng: Random, folder: Path) -> Iterator[str]:
    whole = run(CONFIG, folder / "whole")
    for number in range(tries):
        begun = half_done(folder / str(number))
        for path in (*begun.iterdir(), begun):
            os.utime(path, (4e9 * (number % 2), 4e9 * (number % 2)))  # 1970, 2096
        shifted = time.time() + (-1e9 if number % 2 else 1e9)
        with mock.patch.object(time, "time", lambda now=shifted: now):
            assert_same(whole, run(CONFIG, begun.parent))
        yield "went on; same"


def made_locale(name: str, folder: Path) -> bool:
    """Compile one of the system's locales into a folder; False where that is not possible."""
    source, target = name.split(".")[0], folder / name
    try:
        done = subprocess.run(
            ["localedef", "-i", source, "-f", "UTF-8", target], capture_output=True
        )
    except OSError:
        return False
    return target.exists() and done.returncode in (0, 1)


@attack(
    "faults", "other locales: decimal comma (de_DE), Turkish i (tr_TR), ASCII (C)", full=3, quick=3
)
def locales(tries: int, rng: Random, folder: Path) -> Iterator[str]:
    whole = run(CONFIG, folder / "whole")
    for name in ("de_DE.UTF-8", "tr_TR.UTF-8", "C")[:tries]:
        if name != "C" and not made_locale(name, folder):
            yield f"not tried: {name} is not on this machine"
            continue

        def before(name: str = name) -> None:
            os.environ["LOCPATH"] = str(folder)
            locale.setlocale(locale.LC_ALL, name)

        out = folder / f"out-{name}"
        code, lines = command("run", *OPTIONS, "--out", out, folder=folder, before=before)
        assert code == 0, lines
        assert_same(whole, out / CONFIG.id)
        yield "same"


@attack("faults", "the data file vanishes while a grid runs, and comes back", full=2, quick=1)
def vanished_data(tries: int, rng: Random, folder: Path) -> Iterator[str]:
    for number in range(tries):
        path, out = folder / f"own{number}.safetensors", folder / str(number)
        write_file(path, _digits())
        configs = [replace(config, dataset=str(path)) for config in CONFIGS]
        kept = shutil.copy(path, folder / "kept")
        outcomes = grid(configs, out, watch=lambda _, path=path: path.unlink(missing_ok=True))
        statuses = [outcome.status for outcome in outcomes]
        assert statuses == ["done"] + ["failed"] * (len(configs) - 1), statuses
        assert all(str(path) in o.error for o in outcomes[1:])
        shutil.copy(kept, path)
        again = grid(configs, out)
        assert sorted(o.status for o in again) == ["done"] * (len(configs) - 1) + ["skipped"]
        yield "the others failed, each with the file's name; done when it was back"


@attack("faults", "the data set changes under an interrupted run", full=2, quick=1)
def changed_data(tries: int, rng: Random, folder: Path) -> Iterator[str]:
    for number in range(tries):
        begun = half_done(folder / str(number))
        (begun / "data.sha256").write_text("0" * 64)
        try:
            run(CONFIG, begun.parent)
            raise AssertionError("went on with other data")
        except RunError as error:
            assert str(begun) in str(error) and "other data" in str(error)
        yield "one error that names the folder; nothing lost"


def begun(out: Path) -> bool:
    return any(out.glob("*/checkpoint.pt"))


def gone(processes: list) -> bool:
    return not any(process.is_running() for process in processes)


def grid_at_work(folder: Path) -> tuple[Path, subprocess.Popen]:
    """Start a grid with two workers; return its folder of runs and it, once a run is under way."""
    import test_grid

    out = folder / "out"
    out.mkdir(parents=True)
    process = subprocess.Popen(test_grid.command(out, "0,1,2"), env=test_grid.ENVIRONMENT,
                               stderr=subprocess.PIPE, text=True)  # fmt: skip
    test_grid.wait_until(partial(begun, out), 200)
    return out, process


@attack("faults", "a grid's worker is killed (as for want of memory)", full=1, quick=0)
def killed_worker(tries: int, rng: Random, folder: Path) -> Iterator[str]:
    import test_grid

    for number in range(tries):
        out, process = grid_at_work(folder / str(number))
        rng.choice(test_grid.workers(process)).kill()
        _, told = process.communicate(timeout=400)
        assert process.returncode == 0 and test_grid.finished(out) == 3, told
        yield "its run was taken up again; all done"


@attack("faults", "SIGTERM and SIGINT to a grid with two workers", full=2, quick=0)
def stopped_grid(tries: int, rng: Random, folder: Path) -> Iterator[str]:
    import test_grid

    for number in range(tries):
        out, process = grid_at_work(folder / str(number))
        workers = test_grid.workers(process)
        process.send_signal((signal.SIGTERM, signal.SIGINT)[number % 2])
        _, told = process.communicate(timeout=100)
        assert process.returncode in (143, 130) and "Traceback" not in told, told
        test_grid.wait_until(partial(gone, workers), 60)
        again = subprocess.run(test_grid.command(out, "0,1,2"), env=test_grid.ENVIRONMENT,
                               capture_output=True, text=True)  # fmt: skip
        assert again.returncode == 0 and test_grid.finished(out) == 3, again.stderr
        yield "it stopped with its workers; went on; all done"
