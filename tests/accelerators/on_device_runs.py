"""Runs on another device: networks with buffers, checkpoints, records, and what is not touched."""

import random
from dataclasses import replace

import pytest
import torch
from accelerators import imitation
from accelerators.on_device_inference import assert_close
from accelerators.on_device_training import fitted
from helpers.runs import small_config
from torch import nn

from pyro_bayesprune.experiments import build, folders
from pyro_bayesprune.experiments.config import Config
from pyro_bayesprune.experiments.grids import grid, verify
from pyro_bayesprune.experiments.running import run
from pyro_bayesprune.training.loop import train

CONFIG = replace(small_config(), epochs=3)


def ran(out, device="cpu", config=CONFIG):
    return run(config, out=out, device=device, progress=False)


def test_a_run_records_its_device(tmp_path, device):
    here, there = ran(tmp_path / "here"), ran(tmp_path / "there", device)
    assert_close(here.weights, there.weights, atol=1e-4)
    assert [d["device"] for d in here.metrics["devices"]] == ["cpu"]
    (used,) = there.metrics["devices"]
    assert used["device"] == device and used["name"]
    names = ("test_accuracy", "test_loss", "theoretical_speedup", "dead_units")
    assert_close(*({n: r.metrics[n] for n in names} for r in (here, there)), rtol=1e-2)


class WithBatchNorm(nn.Sequential):
    def __init__(self):
        norm = nn.BatchNorm1d(8)
        super().__init__(nn.Flatten(), nn.Linear(64, 8), norm, nn.ReLU(), nn.Linear(8, 10))


@pytest.mark.parametrize("restart", ["no", "rewind", "reinitialise", "shuffle"])
def test_a_run_with_batchnorm(restart, tmp_path, device, monkeypatch):
    monkeypatch.setattr(build, "_network", lambda *args: WithBatchNorm())
    early = {"rewind_epoch": 1} if restart == "rewind" else {}
    result = ran(tmp_path, device, replace(CONFIG, restart=restart, **early))
    assert all(buffer.device.type == "cpu" for buffer in result.buffers.values())
    assert result.metrics["test_loss"] > 0 and result.metrics["multiply_adds"] > 0


class Stopped(Exception):
    pass


def interrupted(out, device, monkeypatch):
    """A run that stops after its second epoch."""
    original = folders.write_checkpoint

    def write(folder, state, *args):
        original(folder, state, *args)
        if state.epoch == 2:
            raise Stopped

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(folders, "write_checkpoint", write)
        ran(out, device)


def loaded_elsewhere(patch):
    """Let torch.load fail as it does where the device of a file is missing."""
    load = torch.load

    def checked(file, map_location=None, **options):
        assert map_location == "cpu", "the device of the file may be missing here"
        return load(file, map_location=map_location, **options)

    patch.setattr(torch, "load", checked)


@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 0)])
def test_a_run_continues_on_another_device(first, second, tmp_path, device, monkeypatch):
    devices = ["cpu", device]
    interrupted(tmp_path, devices[first], monkeypatch)
    with monkeypatch.context() as patch:
        loaded_elsewhere(patch)
        result = ran(tmp_path, devices[second])
    assert [used["device"] for used in result.metrics["devices"]] == [
        devices[first],
        devices[second],
    ]
    assert_close(ran(tmp_path / "all").weights, result.weights, atol=1e-3)
    assert len(result.history) == 3


def test_a_grid_and_its_verification(tmp_path, device):
    (outcome,) = grid([CONFIG], out=tmp_path, device=device)
    assert outcome.status == "done", outcome.error
    assert verify([CONFIG], 1, out=tmp_path, device=device) == {CONFIG.id: True}


def test_only_the_device_of_a_fit_is_touched(device):
    if device != imitation.NAME:
        pytest.skip("only the imitated device counts")
    imitation.touched.clear()
    fitted("cpu", epochs=1)
    assert imitation.touched == []
    before = torch.get_device_module(device).get_rng_state()
    cpu, python = torch.get_rng_state(), random.getstate()
    imitation.touched.clear()
    fitted(device, epochs=1)
    assert set(imitation.touched) == {0}
    assert torch.equal(torch.get_device_module(device).get_rng_state(), before)
    assert torch.equal(torch.get_rng_state(), cpu) and random.getstate() == python


def test_a_device_that_is_not_there_is_refused():
    for place in ("mps", "cuda:7", "nonsense"):
        if place == "cuda:7" and torch.cuda.is_available():
            continue
        with pytest.raises(ValueError, match=f"device '{place}' cannot be used here"):
            next(train(None, (torch.zeros(2, 1), torch.zeros(2)), device=place))
        with pytest.raises(ValueError, match=f"device '{place}' cannot be used here"):
            run(Config(), device=place)
