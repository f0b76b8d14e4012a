"""Loaded runs equal the original runs, and errors name damaged files."""

import pytest
from helpers import assert_same
from helpers.runs import DONE, file_names, quiet_run

import pyro_bayesprune as bp
from pyro_bayesprune.experiments import results
from pyro_bayesprune.experiments.errors import RunError
from pyro_bayesprune.experiments.loading import load_runs


def test_a_loaded_run_is_the_one_that_ran(config, tmp_path):
    first = quiet_run(config, tmp_path)
    again = bp.load_run(first.folder)
    assert_same(first.weights, again.weights)
    assert_same(first.masks, again.masks)
    assert again.config == config and again.history.equals(first.history)
    data = bp.load_dataset(config.dataset)
    accuracy = (again.predict_proba(data.test_x).argmax(1) == data.test_y).double().mean()
    assert accuracy == again.metrics["test_accuracy"]


def flip(path, position):
    """Invert one bit of a file."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", sorted(DONE))
def test_a_truncated_file_of_a_finished_run_is_named(config, tmp_path, finished, name):
    folder = finished
    content = (folder / name).read_bytes()
    for size in (0, 1, len(content) // 2, len(content) - 2):
        (folder / name).write_bytes(content[:size])
        for use in (lambda: bp.load_run(folder), lambda: quiet_run(config, tmp_path)):
            with pytest.raises(RunError, match=f"{name} is damaged") as caught:
                use()
            assert "\n" not in str(caught.value)
    assert file_names(folder) == DONE  # nothing deleted, nothing added


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


def test_a_run_of_a_store_has_the_settings_of_its_id(tmp_path):
    config = bp.configure(hidden=(4,), epochs=2, sparsity=0.5, restart="rewind", rounds=2)
    results.record(tmp_path / "store", quiet_run(config, tmp_path).folder)
    (run,) = load_runs(tmp_path / "store")
    assert run.config == config and run.config.id == run.id
