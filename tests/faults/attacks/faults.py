"""The machine fails: disks, rights, clocks, locales, vanished data."""

import locale
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from unittest import mock

from attacks import CONFIG, OPTIONS, assert_one_line, assert_same, attack, command, run
from attacks.kills import CONFIGS, WRITES, grid
from pyro_bayesprune.data.builtin import _digits
from pyro_bayesprune.data.files import write_file
from pyro_bayesprune.experiments import folders
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
            assert folders.read_checkpoint(out / CONFIG.id)[0] is not None
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
