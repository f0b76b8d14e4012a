"""Grids: what runs, in which order, and what is left when runs, workers or all of it die."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pyro_bayesprune.experiments import folders
from pyro_bayesprune.experiments.config import configure
from pyro_bayesprune.experiments.designs import PAPER, product
from pyro_bayesprune.experiments.grids import Outcome, _receive, attempt, grid, verify
from pyro_bayesprune.pruning.registry import METHODS

SMALL = {"hidden": ((16,),), "epochs": (2,), "network": ("fcn",)}
TIMES = ["seconds_training", "seconds_step"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def small(**axes):
    """A grid of small runs on digits."""
    return product("paper", **({"method": ("random",), "sparsity": (0.5,)} | SMALL | axes))


def assert_same_runs(configs, one, other):
    for config in configs:
        first, second = (Path(out) / config.id for out in (one, other))
        results = [folders.read_result(folder) for folder in (first, second)]
        assert results[0]["weights_sha256"] == results[1]["weights_sha256"]
        histories = [folders.read_history(f).drop(columns=TIMES) for f in (first, second)]
        assert histories[0].equals(histories[1])


def wait_until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened in time"
        time.sleep(0.05)


# Which runs


def test_the_papers_grid_is_the_papers_size():
    configs = product("paper", **PAPER)
    assert len(configs) == 3 * 2 * (2 + 4 * 5) * 5
    assert len({config.id for config in configs}) == len(configs)


def test_a_grid_is_breadth_first_over_seeds():
    seeds = [c.seed for c in small(sparsity=(0.5, 0.9), seed=(3, 1, 2))]
    assert seeds == [3, 3, 1, 1, 2, 2]


def test_methods_that_prune_nothing_appear_once():
    configs = small(method=("unpruned", "bayes_unpruned", "random"), sparsity=(0.5, 0.9))
    found = [(config.method, config.sparsity) for config in configs]
    assert found == [("unpruned", 0), ("bayes_unpruned", 0), ("random", 0.5), ("random", 0.9)]


# What happens to them


def test_a_failed_run_is_recorded_and_stops_no_other(tmp_path):
    bad = configure(dataset=str(tmp_path / "missing.safetensors"))
    good = small()
    seen = []
    outcomes = grid([bad, *good], out=tmp_path, watch=seen.append)
    assert outcomes == seen
    assert {o.config.id: o.status for o in outcomes} == {bad.id: "failed", good[0].id: "done"}
    text = (tmp_path / bad.id / "error.txt").read_text()
    assert "Traceback" in text and "missing.safetensors" in text
    again = grid(good, out=tmp_path)
    assert [outcome.status for outcome in again] == ["skipped"]
    known = grid(small(seed=(5,)), out=tmp_path, known=[small(seed=(5,))[0].id])
    assert [outcome.status for outcome in known] == ["skipped"]
    assert verify(good, 3, out=tmp_path) == {good[0].id: True}


def test_verify_tells_a_run_that_differs(tmp_path):
    (config,) = small()
    assert attempt(config, str(tmp_path), None, "cpu", None, False).status == "done"
    folder = tmp_path / config.id
    result = folders.read_result(folder) | {"weights_sha256": "0" * 64}
    result.pop("sha256", None)
    (folder / "result.json").write_text(json.dumps(result))
    assert verify([config], 1, out=tmp_path) == {config.id: False}


def test_a_run_that_another_process_works_on_is_waited_for(tmp_path):
    (config,) = small()
    with folders.locked(tmp_path / config.id):
        assert attempt(config, str(tmp_path), None, "cpu", None, False).status == "busy"
    outcome = attempt(config, str(tmp_path), None, "cpu", None, True)
    assert outcome.status == "done"
    assert {"config.json", "history.csv", "result.json", "weights.safetensors"} == set(
        outcome.files
    )


def test_a_run_that_another_process_takes_in_the_meantime_is_no_failure(tmp_path, monkeypatch):
    (config,) = small()
    monkeypatch.setattr(
        "pyro_bayesprune.experiments.grids._held", lambda folder: False
    )  # a moment too early
    with folders.locked(tmp_path / config.id):
        assert attempt(config, str(tmp_path), None, "cpu", None, False).status == "busy"


def test_what_a_worker_sends_stays_in_its_runs_folder(tmp_path):
    (config,) = small()
    sent = {"../../outside.json": b"{}", "/tmp/absolute.csv": b"", "config.json": b"{}"}
    _receive(tmp_path / "runs", Outcome(config, "done", files=sent))
    written = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    names = ("outside.json", "absolute.csv", "config.json")
    assert written == {f"runs/{config.id}/{name}" for name in names}


def test_a_failure_that_cannot_be_written_down_stops_no_other(tmp_path):
    bad = configure(dataset=str(tmp_path / "missing.safetensors"))
    (tmp_path / bad.id).write_text("a file where the run's folder should be")
    outcomes = grid([bad, *small()], out=tmp_path)
    assert [outcome.status for outcome in outcomes] == ["failed", "done"]


def test_an_engine_needs_what_it_needs(tmp_path):
    for options in ({"engine": "dask"}, {"address": "tcp://x"}, {"engine": "threads"}):
        with pytest.raises(ValueError, match="engine must be"):
            grid(small(), out=tmp_path, **options)


# Kills


def command(out, seeds, jobs=2):
    settings = out.parent / "small.yaml"
    settings.write_text("hidden: [16]\n")
    words = ["grid", "--datasets", "digits", "--networks", "fcn", "--methods", "random"]
    words += ["--sparsities", "0.5", "--seeds", seeds, "--epochs", "40", "--out", str(out)]
    words += ["--jobs", str(jobs), "--config", str(settings)]
    return [sys.executable, "-m", "pyro_bayesprune.cli", *words]


def configs_of(seeds):
    return small(seed=tuple(int(s) for s in seeds.split(",")), epochs=(40,))


def finished(out):
    return len(list(out.glob("*/result.json")))


def workers(process):
    children = psutil.Process(process.pid).children(recursive=True)
    return [c for c in children if "popen_loky" in " ".join(c.cmdline())]


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
    _, told = process.communicate(timeout=300)
    assert process.returncode == 0, told
    assert finished(out) == 4
    assert "failed" not in told


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
        out, seen = tmp_path / "out", []

        def watch(outcome):
            seen.append(outcome)
            if len(seen) == 1:
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


def test_any_setting_can_be_an_axis():
    from pyro_bayesprune.cli.grid import _grid_configurations

    values = {"datasets": "digits", "networks": "fcn", "seeds": "0,1", "sparsities": "0.9"}
    made = _grid_configurations(values | {"vary": ["hidden=[8, 8],[16]", "beta=0,0.5,1"]})
    assert len(made) == 2 * 2 * 3
    assert {(c.hidden, c.beta) for c in made} == {
        (hidden, beta) for hidden in ((8, 8), (16,)) for beta in (0, 0.5, 1)
    }
    assert {c.method for c in made} == {"bayes_magnitude"}  # what the preset's settings are
    assert {c.method for c in _grid_configurations(values)} == set(METHODS)
