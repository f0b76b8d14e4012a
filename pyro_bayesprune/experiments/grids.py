"""Many runs, on one machine or many. A grid is resumed by running it again."""

import random
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import joblib
import torch
from filelock import FileLock, Timeout
from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.process_executor import TerminatedWorkerError

from pyro_bayesprune._utils import files
from pyro_bayesprune.experiments import folders
from pyro_bayesprune.experiments.config import Config
from pyro_bayesprune.experiments.errors import Busy
from pyro_bayesprune.experiments.running import run

Engine = Literal["loky", "dask"]
MAX_DEATHS = 3
SENT = (".json", ".csv", ".safetensors")  # what a finished run consists of
PAUSE = 1.0  # seconds between looks at runs that another process works on


@dataclass(frozen=True)
class Outcome:
    """How one run of a grid ended.

    Args:
        config: what ran.
        status: ``done``, ``skipped`` (it was done before), ``failed``, or ``busy`` (another process
            works on it: a grid looks again).
        seconds: wall time.
        error: traceback of a failure.
        files: content of the run folder, where it was not written to a folder of this machine.
    """

    config: Config
    status: Literal["done", "skipped", "failed", "busy"]
    seconds: float = 0.0
    error: str = ""
    files: dict[str, bytes] | None = None


def attempt(
    config: Config, out: str, data_dir: str | None, device: str, threads: int | None, send: bool
) -> Outcome:
    """Run one configuration in a worker; a failure becomes an outcome, with its traceback."""
    started = time.perf_counter()
    if _held(Path(out) / config.id):
        return Outcome(config, "busy")
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        run(config, out=out, data_dir=data_dir, device=device, progress=False)
    except Busy:
        return Outcome(config, "busy")
    except Exception:
        return Outcome(config, "failed", time.perf_counter() - started, traceback.format_exc())
    folder = Path(out) / config.id
    (folder / "error.txt").unlink(missing_ok=True)  # of an earlier try
    names = [p for p in folder.iterdir() if p.suffix in SENT] if send else []
    files = {path.name: path.read_bytes() for path in names}
    return Outcome(config, "done", time.perf_counter() - started, files=files or None)


def _held(folder: Path) -> bool:
    """Say whether another process works on a run: a killed grid's worker ends its run first."""
    if not (folder / "lock").exists():
        return False
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


@contextmanager
def _dask(address: str) -> Iterator[AbstractContextManager]:
    from dask.distributed import Client

    with Client(address) as client, joblib.parallel_config(backend="dask") as backend:
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        if any(worker["nthreads"] > 1 for worker in workers):
            raise ValueError("runs of one process would mix: start the workers with --nthreads 1")
        yield backend


def grid(
    configs: Iterable[Config],
    *,
    out: str | Path = "runs",
    data_dir: str | Path | None = None,
    device: str = "cpu",
    jobs: int = 1,
    engine: Engine = "loky",
    address: str | None = None,
    known: Collection[str] = (),
    watch: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Run configurations; what is done is skipped, what was interrupted goes on.

    A failed run stops no other. A run whose worker died is taken up again, at most three times.

    Args:
        configs: what to run, in order.
        out: folder of the run folders; with Dask, a shared folder or one of each worker.
        data_dir: folder of the data files, on every worker.
        device: where to compute.
        jobs: runs at a time on this machine; each gets its share of the processors.
        engine: ``loky`` (processes of this machine) or ``dask`` (a cluster).
        address: of the Dask scheduler, ``tcp://host:port``.
        known: ids of runs to skip although they have no folder here.
        watch: called with each outcome as it comes.

    Raises:
        ValueError: for an unknown engine, or Dask without an address.
    """
    if engine not in ("loky", "dask") or (engine == "dask") != bool(address):
        raise ValueError(f"engine must be loky, or dask with an address, got {engine}, {address}")
    out = Path(out).absolute()
    outcomes, waiting = [], {}
    for config in configs:
        if config.id in known or folders.is_finished(out / config.id):
            outcomes.append(Outcome(config, "skipped"))
            watch(outcomes[-1])
        else:
            waiting[config.id] = config

    def receive(outcome: Outcome) -> None:
        _receive(out, outcome)
        outcomes.append(outcome)
        del waiting[outcome.config.id]
        watch(outcome)

    deaths = 0  # one after another, without a run that ended between them
    while waiting:
        before = len(waiting)
        try:
            for outcome in _outcomes(waiting, out, data_dir, device, jobs, engine, address):
                if outcome.status != "busy":
                    receive(outcome)
            time.sleep(PAUSE if waiting else 0)
        except TerminatedWorkerError as error:
            deaths = deaths + 1 if len(waiting) == before else 1
            if deaths == MAX_DEATHS:
                for config in list(waiting.values()):
                    receive(Outcome(config, "failed", error=str(error)))
    return outcomes


def _outcomes(
    waiting: dict[str, Config],
    out: Path,
    data_dir: str | Path | None,
    device: str,
    jobs: int,
    engine: Engine,
    address: str | None,
) -> Iterator[Outcome]:
    threads = max(1, joblib.cpu_count() // jobs) if engine == "loky" else None
    folder = None if data_dir is None else str(Path(data_dir).absolute())
    calls = [
        joblib.delayed(attempt)(config, str(out), folder, device, threads, engine == "dask")
        for config in waiting.values()
    ]
    if engine == "dask":
        assert address is not None
        with _dask(address):
            yield from joblib.Parallel(return_as="generator_unordered")(calls)
    else:
        with _workers_ended(), joblib.parallel_config("loky", inner_max_num_threads=threads):
            yield from joblib.Parallel(jobs, return_as="generator_unordered", batch_size=1)(calls)


@contextmanager
def _workers_ended() -> Iterator[None]:
    """When the grid is stopped, stop its workers too: they would finish their runs unseen."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception):  # Ctrl-C, SIGTERM; runs go on from their checkpoints
            get_reusable_executor(reuse=True, kill_workers=True).shutdown(kill_workers=True)
        raise


def _receive(out: Path, outcome: Outcome) -> None:
    """Write what a worker sent back (into the run's folder only), or the traceback of a failure."""
    folder = out / outcome.config.id
    if outcome.status == "failed":
        with suppress(OSError):  # a folder that cannot be written is why some runs fail
            files.write_atomically(folder / "error.txt", outcome.error.encode())
    elif outcome.files and not folders.is_finished(folder):
        for name in sorted(outcome.files, key=lambda name: name == "result.json"):
            files.write_atomically(folder / Path(name).name, outcome.files[name])


def verify(
    configs: Sequence[Config],
    count: int,
    *,
    out: str | Path = "runs",
    data_dir: str | Path | None = None,
    seed: int = 0,
) -> dict[str, bool]:
    """Run ``count`` random finished runs again, elsewhere, and compare weights and histories.

    Returns:
        By run id, whether all is equal but the times.
    """
    finished = [config for config in configs if folders.is_finished(Path(out) / config.id)]
    chosen = random.Random(seed).sample(finished, min(count, len(finished)))
    return {config.id: _same_again(config, Path(out), data_dir) for config in chosen}


def _same_again(config: Config, out: Path, data_dir: str | Path | None) -> bool:
    elsewhere, folder = Path(tempfile.mkdtemp()), out / config.id
    threads = torch.get_num_threads()
    torch.set_num_threads(folders.read_result(folder)["machine"]["threads"])  # sums depend on it
    try:
        again = run(config, out=elsewhere, data_dir=data_dir, progress=False)
    finally:
        torch.set_num_threads(threads)
        shutil.rmtree(elsewhere)
    history = folders.read_history(folder)
    times = ["seconds_training", "seconds_step"]
    same_weights = again.metrics["weights_sha256"] == folders.read_result(folder)["weights_sha256"]
    return same_weights and history.drop(columns=times).equals(again.history.drop(columns=times))
