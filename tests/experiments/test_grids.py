"""Grids: failed runs, killed workers and killed grids."""

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import TIMES
from helpers.grid_processes import ENVIRONMENT, command, finished, small_grid, wait_until, workers

from pyro_bayesprune.experiments import folders
from pyro_bayesprune.experiments.config import configure
from pyro_bayesprune.experiments.errors import Busy, RunError
from pyro_bayesprune.experiments.grids import Outcome, _receive, attempt, grid, verify
from pyro_bayesprune.experiments.running import run


def assert_same_runs(configs, one, other):
    for config in configs:
        first, second = (Path(out) / config.id for out in (one, other))
        results = [folders.read_result(folder) for folder in (first, second)]
        assert results[0]["weights_sha256"] == results[1]["weights_sha256"]
        histories = [folders.read_history(f).drop(columns=TIMES) for f in (first, second)]
        assert histories[0].equals(histories[1])


# Failures


def test_a_failed_run_is_recorded_and_stops_no_other(tmp_path):
    bad = configure(dataset=str(tmp_path / "missing.safetensors"))
    good = small_grid()
    watched = []
    outcomes = grid([bad, *good], out=tmp_path, watch=watched.append)
    assert outcomes == watched
    assert {o.config.id: o.status for o in outcomes} == {bad.id: "failed", good[0].id: "done"}
    text = (tmp_path / bad.id / "error.txt").read_text()
    assert "Traceback" in text and "missing.safetensors" in text
    again = grid(good, out=tmp_path)
    assert [outcome.status for outcome in again] == ["skipped"]
    known = grid(small_grid(seed=(5,)), out=tmp_path, known=[small_grid(seed=(5,))[0].id])
    assert [outcome.status for outcome in known] == ["skipped"]
    assert verify(good, 3, out=tmp_path) == {good[0].id: True}


def test_verify_detects_a_run_that_differs(tmp_path):
    (config,) = small_grid()
    assert attempt(config, tmp_path).status == "done"
    folder, other = tmp_path / config.id, run(replace(config, seed=9), out=tmp_path / "other")
    shutil.copy(other.folder / folders.WEIGHTS, folder)
    result = folders.read_result(folder) | {"weights_sha256": other.metrics["weights_sha256"]}
    result.pop("sha256", None)
    (folder / "result.json").write_text(json.dumps(result))
    assert verify([config], 1, out=tmp_path) == {config.id: False}


def test_verify_names_a_damaged_file(tmp_path):
    (config,) = small_grid()
    grid([config], out=tmp_path)
    (tmp_path / config.id / "weights.safetensors").write_bytes(b"damaged")
    with pytest.raises(RunError, match="weights.safetensors is damaged"):
        verify([config], 1, out=tmp_path)


def test_a_run_that_another_process_works_on_is_waited_for(tmp_path):
    (config,) = small_grid()
    with folders.locked(tmp_path / config.id):
        assert attempt(config, tmp_path).status == "busy"
    outcome = attempt(config, tmp_path, send=True)
    assert outcome.status == "done"
    assert {"config.json", "history.csv", "result.json", "weights.safetensors"} == set(
        outcome.files
    )


def test_a_run_that_another_process_takes_in_the_meantime_is_no_failure(tmp_path, monkeypatch):
    def taken(config, **options):
        raise Busy

    (config,) = small_grid()
    monkeypatch.setattr("pyro_bayesprune.experiments.grids.run", taken)
    assert attempt(config, tmp_path).status == "busy"


def test_what_a_worker_sends_stays_in_its_runs_folder(tmp_path):
    (config,) = small_grid()
    sent = {"../../outside.json": b"{}", "/tmp/absolute.csv": b"", "config.json": b"{}"}
    _receive(tmp_path / "runs", Outcome(config, "done", files=sent))
    written = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    names = ("outside.json", "absolute.csv", "config.json")
    assert written == {f"runs/{config.id}/{name}" for name in names}


def test_a_failure_that_cannot_be_written_down_stops_no_other(tmp_path):
    bad = configure(dataset=str(tmp_path / "missing.safetensors"))
    (tmp_path / bad.id).write_text("a file where the run's folder should be")
    outcomes = grid([bad, *small_grid()], out=tmp_path)
    assert [outcome.status for outcome in outcomes] == ["failed", "done"]


def test_an_engine_needs_what_it_needs(tmp_path):
    for options in ({"engine": "dask"}, {"address": "tcp://x"}, {"engine": "threads"}):
        with pytest.raises(ValueError, match="engine must be"):
            grid(small_grid(), out=tmp_path, **options)


# Kills


def configs_of(seeds):
    return small_grid(seed=tuple(int(s) for s in seeds.split(",")), epochs=(40,))


@pytest.mark.slow
def test_a_killed_grid_goes_on_and_ends_the_same(tmp_path):
    seeds, out = "0,1,2,3", tmp_path / "killed"
    process = subprocess.Popen(command(out, seeds), env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    wait_until(lambda: finished(out) >= 1 and list(out.glob("*/checkpoint.pt")))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert finished(out) < 4
    again = subprocess.run(command(out, seeds), env=ENVIRONMENT, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    undisturbed = tmp_path / "undisturbed"
    subprocess.run(command(undisturbed, seeds), env=ENVIRONMENT, check=True, capture_output=True)
    assert_same_runs(configs_of(seeds), out, undisturbed)


@pytest.mark.slow
def test_the_run_of_a_dead_worker_is_picked_up_again(tmp_path):
    seeds, out = "0,1,2,3", tmp_path / "out"
    process = subprocess.Popen(
        command(out, seeds), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: list(out.glob("*/checkpoint.pt")) and workers(process))
    workers(process)[0].kill()
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert finished(out) == 4
    assert "failed" not in errors


@pytest.mark.dask
@pytest.mark.slow
def test_a_dask_cluster_that_loses_a_worker_completes_every_run_once(tmp_path):
    pytest.importorskip("distributed")
    address, configs = tmp_path / "scheduler.json", configs_of("0,1,2,3,4,5")
    base = [sys.executable, "-m", "dask"]
    quiet = {"env": ENVIRONMENT, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    local = ["--host", "127.0.0.1", "--no-dashboard"]
    start = [*base, "scheduler", *local, "--port", "0", "--scheduler-file", str(address)]
    processes = [subprocess.Popen(start, cwd=tmp_path, **quiet)]
    try:
        wait_until(address.exists)
        place = json.loads(address.read_text())["address"]
        for name in ("one", "other"):
            work = [*base, "worker", place, *local, "--nthreads", "1", "--no-nanny", "--name", name]
            processes.append(subprocess.Popen(work, cwd=tmp_path, **quiet))
        out, watched = tmp_path / "out", []

        def watch(outcome):
            watched.append(outcome)
            if len(watched) == 1:
                processes[1].kill()

        outcomes = grid(configs, out=out, engine="dask", address=place, watch=watch)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert sorted(o.config.id for o in outcomes) == sorted(c.id for c in configs)
    assert {outcome.status for outcome in outcomes} == {"done"}
    assert finished(out) == len(configs)
    assert all(verify(configs, 1, out=out).values())
