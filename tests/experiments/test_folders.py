"""Run folders: contents, atomic writes, locks, damage, and resuming bit for bit after any kill."""

import hashlib
import json
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import assert_same, raw_tensors
from safetensors.torch import load_file

import pyro_bayesprune as bp
from pyro_bayesprune._utils.files import write_atomically
from pyro_bayesprune.data.files import write_file
from pyro_bayesprune.experiments import folders, running
from pyro_bayesprune.experiments.config import Config
from pyro_bayesprune.experiments.errors import RunError
from pyro_bayesprune.experiments.folders import is_finished, locked, read_checkpoint, set_aside
from pyro_bayesprune.training.state import State

DONE = {"config.json", "history.csv", "result.json", "weights.safetensors"}
TIMES = ["seconds_training", "seconds_step"]


@pytest.fixture(scope="module")
def data_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "tiny.safetensors"
    write_file(path, raw_tensors(n=60))
    return str(path)


@pytest.fixture
def config(data_file):
    """Four epochs in a moment, of a network with a refusing gate and growing sparsity."""
    return Config(dataset=data_file, hidden=(8, 6), epochs=4, batch_size=16, learning_rate=0.01)


def run(config, out, **options):
    return bp.run(config, out=out, progress=False, **options)


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A function that returns the folder of an undisturbed run, made once and not to be changed."""
    out = tmp_path_factory.mktemp("whole")
    return lambda config: run(config, out).folder


@pytest.fixture
def finished(config, tmp_path, whole):
    """A finished run's folder to damage."""
    return Path(shutil.copytree(whole(config), tmp_path / config.id))


def interrupted(config, out, monkeypatch, epochs=2):
    """Run a configuration until it has saved some epochs, and fall over."""
    saved, write = [], folders.write_history

    def fall(folder, rows):
        write(folder, rows)
        saved.append(len(rows))
        if len(saved) == epochs:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(folders, "write_history", fall)
        with pytest.raises(KeyboardInterrupt):
            run(config, out)
    return out / config.id


def same(first, second):
    """Two run folders hold the same weights, masks and history, to the last bit."""
    name = "weights.safetensors"
    histories = [folders.read_history(folder).drop(columns=TIMES) for folder in (first, second)]
    return (first / name).read_bytes() == (second / name).read_bytes() and histories[0].equals(
        histories[1]
    )


# --- contents


def test_a_finished_run_holds_what_the_design_says(config, tmp_path):
    result = run(config, tmp_path)
    assert names(tmp_path) == {result.folder.name} == {config.id}
    assert names(result.folder) == DONE
    assert json.loads((result.folder / "config.json").read_text()) == config.to_dict()
    assert folders.read_history(result.folder)["epoch"].tolist() == [1, 2, 3, 4]
    written = json.loads((result.folder / "result.json").read_text())
    wanted = "test_accuracy test_loss achieved_sparsity compression_ratio seconds versions machine"
    assert set(wanted.split()) <= set(written)
    assert written == result.metrics


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
    folders.write_weights(tmp_path, state)
    weights, masks, buffers = folders.read_weights(tmp_path)
    assert_same(weights, state.weights)
    assert_same(buffers, state.buffers)
    assert masks == {}


def test_a_loaded_run_is_the_one_that_ran(config, tmp_path):
    first = run(config, tmp_path)
    again = bp.load_run(first.folder)
    assert_same(first.weights, again.weights)
    assert_same(first.masks, again.masks)
    assert again.config == config and again.history.equals(first.history)
    data = bp.load_dataset(config.dataset)
    accuracy = (again.predict_proba(data.test_x).argmax(1) == data.test_y).double().mean()
    assert accuracy == again.metrics["test_accuracy"]


def test_a_finished_run_is_skipped(config, tmp_path, finished):
    folder = finished
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    run(config, tmp_path)
    assert before == {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_an_interrupted_run_holds_checkpoint_and_history(config, tmp_path, monkeypatch):
    folder = interrupted(config, tmp_path, monkeypatch)
    left = {"checkpoint.pt", "config.json", "data.sha256", "history.csv"}
    assert names(folder) - {"lock"} == left
    state, rows = read_checkpoint(folder)
    assert state.epoch == len(rows) == 2 and not is_finished(folder)
    with pytest.raises(RunError, match="is not a finished run: result.json is missing"):
        bp.load_run(folder)


def test_what_a_kill_left_behind_is_cleared(config, tmp_path, monkeypatch):
    folder = interrupted(config, tmp_path, monkeypatch)
    (folder / "checkpoint.pt.123.partial").write_bytes(b"half")
    saved = (folder / "checkpoint.pt").read_bytes()
    run(config, tmp_path)
    assert names(folder) == DONE
    (folder / "checkpoint.pt").write_bytes(saved)  # killed between result.json and the last step
    run(config, tmp_path)
    assert names(folder) == DONE


# --- result.json


def reject(constant):
    raise ValueError(constant)


def test_results_are_json_without_nan(config, tmp_path):
    result = run(replace(config, validation=0.0), tmp_path)
    text = (result.folder / "result.json").read_text()
    assert json.loads(text, parse_constant=reject)["validation_loss"] is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_metric_that_is_not_finite_is_null(config, tmp_path, monkeypatch, value):
    summary = running.summarise

    def odd(*args):
        return summary(*args) | {"test_loss": value, "nested": {"log_likelihood": [value, 1.0]}}

    monkeypatch.setattr(running, "summarise", odd)
    result = run(config, tmp_path)
    read = json.loads((result.folder / "result.json").read_text(), parse_constant=reject)
    assert read["test_loss"] is None and read["nested"] == {"log_likelihood": [None, 1.0]}
    assert "test loss not finite" in repr(result)


# --- atomic writes


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left .*/file'"):  # the message names the file
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and names(tmp_path) == {"file"}


def test_the_disk_is_full_while_saving(config, tmp_path, monkeypatch, whole):
    folder = interrupted(config, tmp_path / "a", monkeypatch)
    before = (folder / "checkpoint.pt").read_bytes()
    fsync = os.fsync

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        run(config, tmp_path / "a")
    assert (folder / "checkpoint.pt").read_bytes() == before
    monkeypatch.setattr(os, "fsync", fsync)
    run(config, tmp_path / "a")
    assert same(folder, whole(config))


# --- locks


def hold(folder, held, release):
    with locked(folder):
        held.set()
        release.wait(30)


def test_a_second_process_says_so_and_leaves(config, tmp_path):
    spawn = multiprocessing.get_context("fork")
    held, release = spawn.Event(), spawn.Event()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads: of this test
        other = spawn.Process(target=hold, args=(tmp_path / config.id, held, release))
        other.start()
    try:
        assert held.wait(30)
        with pytest.raises(RunError, match=f"another process is working on .*{config.id}"):
            run(config, tmp_path)
        assert names(tmp_path / config.id) == {"lock"}
    finally:
        release.set()
        other.join(30)
    assert other.exitcode == 0
    assert is_finished(run(config, tmp_path).folder)


def test_the_lock_of_a_killed_process_does_not_hold(config, tmp_path):
    spawn = multiprocessing.get_context("fork")
    held, release = spawn.Event(), spawn.Event()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        other = spawn.Process(target=hold, args=(tmp_path / config.id, held, release))
        other.start()
    assert held.wait(30)
    other.kill()
    other.join(30)
    assert names(run(config, tmp_path).folder) == DONE


# --- damage


def flip(path, position):
    """Turn over one bit of a file."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", sorted(DONE))
def test_a_truncated_file_of_a_finished_run_is_named(config, tmp_path, finished, name):
    folder = finished
    content = (folder / name).read_bytes()
    for size in (0, 1, len(content) // 2, len(content) - 2):
        (folder / name).write_bytes(content[:size])
        for use in (lambda: bp.load_run(folder), lambda: run(config, tmp_path)):
            with pytest.raises(RunError, match=f"{name} is damaged") as caught:
                use()
            assert "\n" not in str(caught.value)
    assert names(folder) == DONE  # nothing deleted, nothing added


@pytest.mark.parametrize("name", sorted(DONE))
def test_a_flipped_bit_in_a_finished_run_is_noticed(config, tmp_path, finished, name):
    folder = finished
    whole = (folder / name).read_bytes()
    own = (whole.rindex(b'"sha256"') - 4, len(whole)) if name == "result.json" else (0, 0)
    for position in range(0, len(whole), max(1, len(whole) // 40)):
        if own[0] <= position < own[1] or whole[position : position + 1].isspace():
            continue  # the name of the checksum itself, or space between values: nothing is lost
        flip(folder / name, position)
        with pytest.raises(RunError, match=f"{name} is damaged"):
            bp.load_run(folder)
        (folder / name).write_bytes(whole)
    bp.load_run(folder)


def test_a_missing_file_of_a_finished_run_is_named(finished):
    (finished / "weights.safetensors").unlink()
    with pytest.raises(RunError, match="weights.safetensors is missing"):
        bp.load_run(finished)


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(RunError, match="is not a finished run: config.json is missing"):
        bp.load_run(tmp_path)


@pytest.mark.parametrize("content", ["[1]", "3", "{", '{"epochs": "x"}', '{"hidden": 3}', "\0"])
def test_a_damaged_config_of_an_unfinished_run_is_named(config, tmp_path, monkeypatch, content):
    folder = interrupted(config, tmp_path, monkeypatch)
    (folder / "config.json").write_text(content)
    before = (folder / "checkpoint.pt").read_bytes()
    with pytest.raises(RunError, match="config.json is damaged"):
        run(config, tmp_path)
    assert (folder / "checkpoint.pt").read_bytes() == before


def test_a_configuration_changed_under_a_run_is_an_error(config, tmp_path, monkeypatch):
    folder = interrupted(config, tmp_path, monkeypatch)
    changed = replace(config, seed=5).to_dict()
    (folder / "config.json").write_text(json.dumps(changed))
    with pytest.raises(RunError, match="config.json is not the configuration of this run"):
        run(config, tmp_path)


def test_a_configuration_changed_while_its_run_goes_on_is_an_error(config, tmp_path, monkeypatch):
    write = folders.write_history

    def meddle(folder, rows):
        write(folder, rows)
        (folder / "config.json").write_text(json.dumps(replace(config, beta=0.5).to_dict()))

    with monkeypatch.context() as patch:
        patch.setattr(folders, "write_history", meddle)
        with pytest.raises(RunError, match="config.json is not the configuration of this run"):
            run(config, tmp_path)
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
        run(config, tmp_path)
    write_file(path, raw_tensors(n=60))
    assert run(config, tmp_path).metrics["data_sha256"] == bp.load_dataset(str(path)).sha256
    assert names(folder) == DONE


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
        run(config, tmp_path / "a")
    assert names(folder) == DONE | {"checkpoint.pt.damaged"}
    assert (folder / "checkpoint.pt.damaged").read_bytes() == damaged
    assert same(folder, whole(config))


def test_a_second_damaged_file_gets_a_name_of_its_own(tmp_path):
    for content in (b"first", b"second", b"third"):
        (tmp_path / "x").write_bytes(content)
        set_aside(tmp_path / "x")
    kept = ["x.damaged", "x.damaged1", "x.damaged2"]
    assert [(tmp_path / name).read_bytes() for name in kept] == [b"first", b"second", b"third"]


def test_no_pickle_is_loaded(config, tmp_path, monkeypatch):
    """A checkpoint that would run code when unpickled is refused though its checksum fits."""
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
        run(config, tmp_path)
    assert not touched.exists()


# --- resuming


@pytest.mark.parametrize(
    "epochs", [2, *(pytest.param(epochs, marks=pytest.mark.slow) for epochs in (1, 3, 4))]
)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"network": "cnn", "channels": (2, 3)},
        {"criterion": "random", "gate": "previous", "schedule": "constant", "sparsity": 0.5},
        {"regrow": True, "schedule": "constant", "sparsity": 0.5, "gate": "always"},
        {"prior": "layer_scale", "objective": "map"},
        {"restart": "rewind"},
    ],
    ids=["default", "cnn", "algorithm1", "regrow", "layer_scale", "restart"],
)
def test_going_on_is_bit_for_bit(config, tmp_path, monkeypatch, whole, settings, epochs):
    config = replace(config, **settings)
    folder = interrupted(config, tmp_path / "a", monkeypatch, epochs)
    run(config, tmp_path / "a")
    assert same(folder, whole(config))
    may_differ = {"seconds", "finished", "commit", "sha256", "history_sha256"}
    first, second = (folders.read_result(place) for place in (folder, whole(config)))
    assert first.keys() == second.keys()
    assert {key for key in first if first[key] != second[key]} <= may_differ


def test_interrupted_at_every_epoch(config, tmp_path, monkeypatch, whole):
    for _ in range(4):
        folder = interrupted(config, tmp_path / "a", monkeypatch, 1)
    run(config, tmp_path / "a")
    assert same(folder, whole(config))


OPTIONS = ["--hidden", "64,64", "--batch_size", "16", "--epochs", "12"]
KILLABLE = Config(hidden=(64, 64), batch_size=16, epochs=12)


def start(out):
    """Start a run on digits in a process of its own."""
    command = [sys.executable, "-m", "pyro_bayesprune.cli", "run", *OPTIONS, "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def ended(process):
    """Wait for a process to end; return its code and its last line of error output."""
    _, errors = process.communicate(timeout=300)
    return process.returncode, errors.strip().splitlines()[-1:]


def await_epoch(process, folder, epoch):
    """Wait until a run's history has an epoch; its process must not have ended by then."""
    history = folder / "history.csv"
    deadline = time.monotonic() + 120
    while not history.exists() or len(history.read_text().splitlines()) <= epoch:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """An undisturbed run's folder, made by a process of the same kind."""
    out = tmp_path_factory.mktemp("undisturbed")
    assert ended(start(out))[0] == 0
    return out / KILLABLE.id


@pytest.mark.slow
def test_killed_at_several_moments(tmp_path, undisturbed):
    folder = tmp_path / KILLABLE.id
    for epoch, delay in ((0, 0.0), (1, 0.0), (3, 0.02), (5, 0.05), (8, 0.003), (11, 0.0)):
        process = start(tmp_path)
        await_epoch(process, folder, epoch) if epoch else time.sleep(1.5)
        time.sleep(delay)
        process.kill()
        assert ended(process)[0] == -signal.SIGKILL
        assert not is_finished(folder)
    assert ended(start(tmp_path))[0] == 0
    assert names(folder) == DONE
    assert same(folder, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, undisturbed, number, code):
    folder = tmp_path / KILLABLE.id
    process = start(tmp_path)
    await_epoch(process, folder, 2)
    process.send_signal(number)
    returned, [last] = ended(process)
    assert returned == code
    assert str(folder) in last and "Run the same command again to go on" in last
    assert {"checkpoint.pt", "history.csv"} <= names(folder)
    assert ended(start(tmp_path))[0] == 0
    assert same(folder, undisturbed)
