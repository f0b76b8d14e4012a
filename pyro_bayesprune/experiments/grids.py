"""Many runs, on one machine or on a cluster. The same call again continues an interrupted grid."""

import itertools
import random
import tempfile
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import joblib
from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.process_executor import TerminatedWorkerError

from pyro_bayesprune._utils.checks import positive_integer
from pyro_bayesprune._utils.files import path_of, write_atomically
from pyro_bayesprune._utils.process import set_threads
from pyro_bayesprune.experiments import devices, folders
from pyro_bayesprune.experiments.config import Config
from pyro_bayesprune.experiments.errors import Busy
from pyro_bayesprune.experiments.loading import load_run
from pyro_bayesprune.experiments.running import run
from pyro_bayesprune.pruning.registry import DATASETS

Engine = Literal["loky", "dask"]
MAX_DEATHS = 3  # The grid stops if so many workers die in succession without a finished run.
SENT = (".json", ".csv", ".safetensors")  # the files of a finished run
PAUSE = 1.0  # seconds between checks of runs that another process is working on
TIMES = ["seconds_training", "seconds_step"]  # columns that differ when a run is repeated

Status = Literal["done", "skipped", "failed", "busy"]


@dataclass(frozen=True)
class Outcome:
    """The result of one run of a grid.

    Args:
        config: configuration of the run.
        status: ``done``, ``skipped`` (it was finished before), ``failed``, or ``busy`` (another
            process is working on it, and the grid will try again).
        seconds: wall time.
        error: traceback of a failure.
        files: content of the run folder, if the worker could not write to this machine.
    """

    config: Config
    status: Status
    seconds: float = 0.0
    error: str = ""
    files: dict[str, bytes] = field(default_factory=dict)


def attempt(
    config: Config,
    out: Path,
    *,
    device: str = "cpu",
    ranks: devices.Ranks | None = None,
    threads: int | None = None,
    send: bool = False,
    **options: Any,
) -> Outcome:
    """Run a configuration in a worker process. ``send`` returns the files of the run folder."""
    start, folder = time.perf_counter(), out / config.id
    try:
        if (folder / "lock").exists():  # A worker of a killed grid may still be on the run.
            with folders.locked(folder):
                pass
        finished = folders.is_finished(folder)
        with set_threads(threads):
            place = devices.device_of_worker(device, ranks)
            run(config, out=out, device=place, progress=False, **options)
    except Busy:
        return Outcome(config, "busy")
    except Exception:
        return Outcome(config, "failed", time.perf_counter() - start, traceback.format_exc())
    (folder / "error.txt").unlink(missing_ok=True)  # an earlier attempt may have failed
    paths = [path for path in folder.iterdir() if path.suffix in SENT] if send else []
    files = {path.name: path.read_bytes() for path in paths}
    status: Status = "skipped" if finished else "done"
    return Outcome(config, status, time.perf_counter() - start, files=files)


def grid(
    configs: Iterable[Config],
    *,
    out: str | Path = "runs",
    data_dir: str | Path | None = None,
    device: str = "cpu",
    jobs: int = 1,
    threads: int | None = None,
    engine: Engine = "loky",
    address: str | None = None,
    known: Collection[str] = (),
    watch: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Run configurations. Finished runs are skipped and interrupted runs are continued.

    A failed run does not stop the other runs. If a worker process dies, its run is tried again, at
    most three times.

    Args:
        configs: the configurations, in order.
        out: folder of the run folders. With Dask, a shared folder or one of each worker.
        data_dir: folder of the data files, on every worker.
        device: device of the computation. With ``"cuda"``, the workers share all visible GPUs.
        jobs: number of simultaneous runs on this machine, which share the processors.
        threads: processor threads of a run; by default those of this machine, shared by the jobs,
            or the setting of a Dask worker.
        engine: ``loky`` (processes of this machine) or ``dask`` (a cluster).
        address: address of the Dask scheduler, ``tcp://host:port``.
        known: ids of runs to skip even if they have no folder here.
        watch: is called with each outcome.

    Raises:
        ValueError: for an unknown engine, for Dask without an address, or for a number below one.
    """
    if engine not in ("loky", "dask") or (engine == "dask") != bool(address):
        raise ValueError(f"engine must be loky, or dask with an address, got {engine}, {address}")
    positive_integer("jobs", jobs)
    if threads is not None:
        positive_integer("threads", threads)
    out = path_of(out).absolute()
    skipped: list[Outcome] = []
    waiting: dict[str, Config] = {}
    for config in configs:
        # `run` checks whether a data file has changed, so these runs are not skipped here.
        finished = folders.is_finished(out / config.id) and config.dataset in DATASETS
        if config.id in known or finished:
            skipped.append(Outcome(config, "skipped"))
        else:
            waiting[config.id] = config
    options: dict[str, Any] = {"out": out, "send": engine == "dask", "device": device}
    options["data_dir"] = None if data_dir is None else Path(data_dir).absolute()
    if engine == "loky" and threads is None:
        threads = max(1, joblib.cpu_count() // jobs)
    options["threads"] = threads
    outcomes = []
    for outcome in itertools.chain(skipped, _outcomes(waiting, options, jobs, address)):
        _receive(out, outcome)
        outcomes.append(outcome)
        watch(outcome)
    return outcomes


def _outcomes(
    waiting: dict[str, Config], options: dict[str, Any], jobs: int, address: str | None
) -> Iterator[Outcome]:
    """Yield an outcome for each run. Repeat runs that are busy or whose worker died."""
    deaths = 0
    while waiting:
        before = len(waiting)
        try:
            for outcome in _run_parallel([*waiting.values()], options, jobs, address):
                if outcome.status != "busy":
                    del waiting[outcome.config.id]
                    yield outcome
            time.sleep(PAUSE if waiting else 0)
        except TerminatedWorkerError as error:
            deaths = deaths + 1 if len(waiting) == before else 1
            if deaths == MAX_DEATHS:
                yield from [Outcome(c, "failed", error=str(error)) for c in waiting.values()]
                return


def _run_parallel(
    configs: list[Config], options: dict[str, Any], jobs: int, address: str | None
) -> Iterator[Outcome]:
    if address:
        with _dask(address) as ranks:
            calls = [joblib.delayed(attempt)(c, **options, ranks=ranks) for c in configs]
            yield from joblib.Parallel(return_as="generator_unordered")(calls)
    else:
        calls = [joblib.delayed(attempt)(config, **options) for config in configs]
        limit = {"inner_max_num_threads": options["threads"]}
        with _workers_ended(), joblib.parallel_config("loky", **limit):
            yield from joblib.Parallel(jobs, return_as="generator_unordered", batch_size=1)(calls)


@contextmanager
def _dask(address: str) -> Iterator[devices.Ranks]:
    """Use the workers of a cluster inside; yield their numbers."""
    try:
        from dask.distributed import Client
    except ImportError as error:
        raise ImportError(f"{error}: pip install 'pyro-bayesprune[dask]'") from None
    with Client(address) as client, joblib.parallel_config(backend="dask"):
        workers = client.scheduler_info(n_workers=-1)["workers"]
        if any(worker["nthreads"] > 1 for worker in workers.values()):
            raise ValueError("a process can do one run at a time: start workers with --nthreads 1")
        yield devices.ranks(workers)


@contextmanager
def _workers_ended() -> Iterator[None]:
    """Stop the workers if the grid is stopped; otherwise they would finish their runs."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception):  # Ctrl-C or SIGTERM
            get_reusable_executor(reuse=True, kill_workers=True).shutdown(kill_workers=True)
        raise


def _receive(out: Path, outcome: Outcome) -> None:
    """Write the files that a worker sent into the run folder, or the traceback of a failure."""
    folder = out / outcome.config.id
    if outcome.status == "failed":
        with suppress(OSError):  # a read-only folder may be the cause of the failure
            write_atomically(folder / "error.txt", outcome.error.encode())
    elif outcome.files and not folders.is_finished(folder):
        for name in sorted(outcome.files, key=lambda name: name == "result.json"):
            write_atomically(folder / Path(name).name, outcome.files[name])


def verify(
    configs: Sequence[Config],
    count: int,
    *,
    out: str | Path = "runs",
    data_dir: str | Path | None = None,
    device: str = "cpu",
) -> dict[str, bool]:
    """Repeat ``count`` random finished runs, and return for each id whether the results are equal.

    The weights and the history (except times) must be identical. The device should be that of the
    runs: other devices round differently.

    Raises:
        ValueError: if ``count`` is not positive, or no configuration has a finished run in ``out``.
        RunError: if a file of a finished run is damaged.
    """
    positive_integer("verify", count)
    out = path_of(out)
    finished = [config for config in configs if folders.is_finished(out / config.id)]
    if not finished:
        raise ValueError(f"{out} has no finished run of these {len(configs)} configurations")
    identical = {}
    for config in random.Random(0).sample(finished, min(count, len(finished))):
        first = load_run(out / config.id)  # raises an error if a file is damaged
        threads = first.metrics["machine"]["threads"]  # the order of sums depends on it
        with tempfile.TemporaryDirectory() as elsewhere, set_threads(threads):
            again = run(config, out=elsewhere, data_dir=data_dir, device=device, progress=False)
        same_history = again.history.drop(columns=TIMES).equals(first.history.drop(columns=TIMES))
        same_weights = again.metrics["weights_sha256"] == first.metrics["weights_sha256"]
        identical[config.id] = same_history and same_weights
    return identical
