"""Which device a worker of a grid uses, and how it is described."""

import multiprocessing
import sys
from types import SimpleNamespace

import joblib
import pytest
import torch

from pyro_bayesprune.cli import main
from pyro_bayesprune.experiments import grids
from pyro_bayesprune.experiments.config import Config
from pyro_bayesprune.experiments.devices import describe, device_of_worker, ranks


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_a_named_device_stays(two_gpus):
    assert [device_of_worker(d) for d in ("cpu", "cuda:1", "meta")] == ["cpu", "cuda:1", "meta"]


def test_without_gpus_the_device_stays_and_the_run_says_why():
    assert device_of_worker("cuda") == "cuda" or torch.cuda.is_available()


@pytest.mark.parametrize(("name", "expected"), [
    ("MainProcess", 0), ("LokyProcess-1", 0), ("LokyProcess-2", 1), ("LokyProcess-3", 0),
])  # fmt: skip
def test_local_workers_share_the_gpus(name, expected, two_gpus, monkeypatch):
    process = SimpleNamespace(name=name)
    monkeypatch.setattr(multiprocessing, "current_process", lambda: process)
    assert device_of_worker("cuda") == f"cuda:{expected}"


def test_two_processes_of_joblib_have_two_gpus():
    def placed():
        import time

        import torch

        from pyro_bayesprune.experiments.devices import device_of_worker

        torch.cuda.device_count = lambda: 2
        time.sleep(0.5)  # so that both workers are needed
        return device_of_worker("cuda")

    with joblib.parallel_config("loky"):
        results = joblib.Parallel(2, batch_size=1)(joblib.delayed(placed)() for _ in range(4))
    assert set(results) == {"cuda:0", "cuda:1"}


def test_dask_workers_of_one_machine_share_its_gpus(two_gpus, monkeypatch):
    hosts = {"tcp://a:1": "a", "tcp://b:1": "b", "tcp://a:2": "a", "tcp://a:3": "a"}
    numbers = ranks({address: {"host": host} for address, host in hosts.items()})
    assert numbers == {"tcp://a:1": 0, "tcp://b:1": 0, "tcp://a:2": 1, "tcp://a:3": 2}
    places = []
    for address in [*hosts, "tcp://late:1"]:
        worker = SimpleNamespace(address=address)
        fake = SimpleNamespace(get_worker=lambda worker=worker: worker)
        monkeypatch.setitem(sys.modules, "distributed", fake)
        places.append(device_of_worker("cuda", numbers))
    assert places == ["cuda:0", "cuda:0", "cuda:1", "cuda:0", "cuda:0"]


def test_a_worker_runs_on_its_device(two_gpus, monkeypatch, tmp_path):
    used = []
    monkeypatch.setattr(grids, "run", lambda *args, **options: used.append(options["device"]))
    config = Config()
    (tmp_path / config.id).mkdir()
    assert grids.attempt(config, tmp_path, device="cuda").status == "done"
    assert used == ["cuda:0"]


def test_the_command_verifies_on_the_device(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(
        grids, "verify", lambda *args, **o: calls.append(o["device"]) or {"a": True}
    )
    main(["grid", "--verify", "1", "--device", "cuda:1", "--out", str(tmp_path)])
    assert calls == ["cuda:1"]


def test_a_description_names_gpu_and_version(monkeypatch):
    assert set(describe("cpu")) == {"device", "name"}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "H100")
    expected = {"device": "cuda:1", "name": "H100", "cuda": torch.version.cuda}
    assert describe("cuda:1") == expected
