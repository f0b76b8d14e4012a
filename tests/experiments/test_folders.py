"""Run folders: contents, locks, and errors that name damaged files."""

import hashlib
import json
import multiprocessing
import os
import warnings
from dataclasses import replace

import pytest
import torch
from helpers import assert_same, raw_tensors
from helpers.runs import DONE, file_names, interrupted, quiet_run, same_runs
from safetensors.torch import load_file

import pyro_bayesprune as bp
from pyro_bayesprune.data.files import write_file
from pyro_bayesprune.experiments import folders
from pyro_bayesprune.experiments.errors import RunError
from pyro_bayesprune.experiments.folders import is_finished, locked, read_checkpoint, set_aside
from pyro_bayesprune.training.state import State

# --- contents


def test_weights_and_masks_lie_under_their_names(finished):
    result = bp.load_run(finished)
    tensors = load_file(result.folder / "weights.safetensors")
    masks = {f"mask.{name}" for name in result.masks}
    assert set(tensors) == set(result.weights) | masks
    assert masks == {f"mask.fc{layer}.weight" for layer in (1, 2, 3)}
    for name in result.masks:
        assert tensors[f"mask.{name}"].dtype == torch.bool
        assert (tensors[name][~tensors[f"mask.{name}"]] == 0).all()


def test_buffers_are_read_back(tmp_path):
    state = State(1, {"a": torch.ones(2)}, {}, {"norm.mean": torch.arange(3.0)}, {}, None)
    folders.write_weights(tmp_path / folders.WEIGHTS, state)
    weights, masks, buffers = folders.read_weights(tmp_path / folders.WEIGHTS)
    assert_same(weights, state.weights)
    assert_same(buffers, state.buffers)
    assert masks == {}


def test_an_interrupted_run_holds_checkpoint_and_history(config, tmp_path, monkeypatch):
    folder = interrupted(config, tmp_path, monkeypatch)
    left = {"checkpoint.pt", "config.json", "data.sha256", "devices.json", "history.csv"}
    assert file_names(folder) - {"lock"} == left
    state, rows = read_checkpoint(folder)
    assert state.epoch == len(rows) == 2 and not is_finished(folder)
    with pytest.raises(RunError, match="is not a finished run: result.json is missing"):
        bp.load_run(folder)


def test_what_a_kill_left_behind_is_cleared(config, tmp_path, monkeypatch):
    folder = interrupted(config, tmp_path, monkeypatch)
    (folder / "checkpoint.pt.123.partial").write_bytes(b"half")
    saved = (folder / "checkpoint.pt").read_bytes()
    quiet_run(config, tmp_path)
    assert file_names(folder) == DONE
    (folder / "checkpoint.pt").write_bytes(saved)  # killed between result.json and the last step
    quiet_run(config, tmp_path)
    assert file_names(folder) == DONE


# --- locks


def lock(folder, locked_event, release):
    with locked(folder):
        locked_event.set()
        release.wait(30)


def locking_process(folder):
    """Start a process that locks a folder until the event ``release`` is set."""
    fork = multiprocessing.get_context("fork")
    locked_event, release = fork.Event(), fork.Event()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads of this test
        process = fork.Process(target=lock, args=(folder, locked_event, release))
        process.start()
    assert locked_event.wait(30)
    return process, release


def test_a_second_process_says_so_and_leaves(config, tmp_path):
    other, release = locking_process(tmp_path / config.id)
    try:
        with pytest.raises(RunError, match=f"another process is working on .*{config.id}"):
            quiet_run(config, tmp_path)
        assert file_names(tmp_path / config.id) == {"lock"}
    finally:
        release.set()
        other.join(30)
    assert other.exitcode == 0
    assert is_finished(quiet_run(config, tmp_path).folder)


def test_the_lock_of_a_killed_process_does_not_hold(config, tmp_path):
    other, _ = locking_process(tmp_path / config.id)
    other.kill()
    other.join(30)
    assert file_names(quiet_run(config, tmp_path).folder) == DONE


# --- damage


@pytest.mark.parametrize("content", ["[1]", "3", "{", '{"epochs": "x"}', '{"hidden": 3}', "\0"])
def test_a_damaged_config_of_an_unfinished_run_is_named(config, tmp_path, monkeypatch, content):
    folder = interrupted(config, tmp_path, monkeypatch)
    (folder / "config.json").write_text(content)
    before = (folder / "checkpoint.pt").read_bytes()
    with pytest.raises(RunError, match="config.json is damaged"):
        quiet_run(config, tmp_path)
    assert (folder / "checkpoint.pt").read_bytes() == before


def test_a_configuration_changed_under_a_run_is_an_error(config, tmp_path, monkeypatch):
    folder = interrupted(config, tmp_path, monkeypatch)
    changed = replace(config, seed=5).to_dict()
    (folder / "config.json").write_text(json.dumps(changed))
    with pytest.raises(RunError, match="config.json is not the configuration of this run"):
        quiet_run(config, tmp_path)


def test_a_configuration_changed_while_its_run_goes_on_is_an_error(config, tmp_path, monkeypatch):
    write = folders.write_history

    def meddle(folder, rows):
        write(folder, rows)
        (folder / "config.json").write_text(json.dumps(replace(config, beta=0.5).to_dict()))

    with monkeypatch.context() as patch:
        patch.setattr(folders, "write_history", meddle)
        with pytest.raises(RunError, match="config.json is not the configuration of this run"):
            quiet_run(config, tmp_path)
    assert not is_finished(tmp_path / config.id)


def test_data_that_changed_under_a_run_are_an_error(config, tmp_path, monkeypatch):
    path = tmp_path / "own.safetensors"
    write_file(path, raw_tensors(n=60))
    config = replace(config, dataset=str(path))
    folder = interrupted(config, tmp_path, monkeypatch)
    tensors = raw_tensors(n=60)
    tensors["train_images"][0, 0, 0, 0] ^= 1
    write_file(path, tensors)
    with pytest.raises(RunError, match="was begun on other data: the data set has changed"):
        quiet_run(config, tmp_path)
    write_file(path, raw_tensors(n=60))
    assert quiet_run(config, tmp_path).metrics["data_sha256"] == bp.load_dataset(str(path)).sha256
    assert file_names(folder) == DONE


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "other"])
def test_a_damaged_checkpoint_is_kept_and_the_run_starts_over(
    config, tmp_path, monkeypatch, whole, damage
):
    folder = interrupted(config, tmp_path / "a", monkeypatch)
    path = folder / "checkpoint.pt"
    content = path.read_bytes()
    other = b"whole, but not what this version writes"
    path.write_bytes(
        {
            "truncated": content[: len(content) // 2],
            "flipped": content[:500] + bytes([content[500] ^ 1]) + content[501:],
            "empty": b"",
            "other": other + hashlib.sha256(other).digest(),
        }[damage]
    )
    damaged = path.read_bytes()
    with pytest.warns(RuntimeWarning, match=r"checkpoint.pt is damaged.* starts over; .* kept as"):
        quiet_run(config, tmp_path / "a")
    assert file_names(folder) == DONE | {"checkpoint.pt.damaged"}
    assert (folder / "checkpoint.pt.damaged").read_bytes() == damaged
    assert same_runs(folder, whole(config))


def test_a_second_damaged_file_gets_a_name_of_its_own(tmp_path):
    for content in (b"first", b"second", b"third"):
        (tmp_path / "x").write_bytes(content)
        set_aside(tmp_path / "x")
    names = ["x.damaged", "x.damaged1", "x.damaged2"]
    assert [(tmp_path / name).read_bytes() for name in names] == [b"first", b"second", b"third"]


def test_no_pickle_is_loaded(config, tmp_path, monkeypatch):
    """A checkpoint that would run code is refused, even if its checksum matches."""
    folder = interrupted(config, tmp_path, monkeypatch)
    touched = tmp_path / "touched"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(touched),)

    save = torch.save
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", lambda value, file: save({"state": Evil()}, file))
        folders.write_checkpoint(folder, State(1, {}, {}, {}, {}, None), [])
    with pytest.warns(RuntimeWarning, match="starts over"):
        quiet_run(config, tmp_path)
    assert not touched.exists()
