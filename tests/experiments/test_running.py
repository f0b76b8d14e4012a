"""Running a configuration: written files, restarts, and bit-identical continuation."""

import json
import math
import os
from dataclasses import replace

import pytest
import torch
from helpers.runs import DONE, file_names, interrupted, quiet_run, same_runs, small_config

from pyro_bayesprune.experiments import folders, running
from pyro_bayesprune.experiments.build import build_data, build_model, epochs_of, trainings
from pyro_bayesprune.experiments.errors import RunError
from pyro_bayesprune.experiments.running import run
from pyro_bayesprune.models.networks import FCN


def test_a_finished_run_is_not_run_again(finished_run, monkeypatch):
    monkeypatch.setattr("pyro_bayesprune.experiments.build.train", None)
    assert run(finished_run.config, out=finished_run.folder.parent).metrics == finished_run.metrics


@pytest.mark.parametrize("restart", ["rewind", "reinitialise", "shuffle"])
def test_a_restart_trains_again_under_the_final_masks(restart, finished_run, tmp_path):
    config = replace(finished_run.config, restart=restart)
    result = run(config, out=tmp_path, progress=False)
    assert len(result.history) == 2 * config.epochs
    assert result.history["sparsity"].iloc[-1] == finished_run.metrics["achieved_sparsity"]
    same = [torch.equal(result.masks[n], m) for n, m in finished_run.masks.items()]
    assert not any(same) if restart == "shuffle" else all(same)
    for name, mask in result.masks.items():
        assert int(mask.sum()) == int(finished_run.masks[name].sum())
        assert not result.weights[name][~mask].any()


def test_iterated_rounds_prune_equal_shares_and_return_to_an_early_epoch(tmp_path):
    config = replace(small_config(sparsity=0.875), restart="rewind", rounds=3, rewind_epoch=1)
    config = replace(config, gate="always", schedule="one_shot", epochs=3)
    states = []
    assert [round(part.sparsity, 6) for part in trainings(config)] == [0.5, 0.75, 0.875, 0.0]
    data = build_data(config)
    model = build_model(config, data.shape, data.num_classes, data.num_train)
    [first, *_] = epochs_of(trainings(config)[0], model, data, epochs=3)
    original = folders.write_checkpoint

    def write(*args):
        states.append(args[1])
        original(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folders, "write_checkpoint", write)
        result = run(config, out=tmp_path, progress=False)
    assert list(result.history["sparsity"].round(3).iloc[2::3]) == [0.5, 0.75, 0.875, 0.875]
    assert list(result.history["sparsity"].iloc[[3, 6]].round(3)) == [0.5, 0.75]  # one shot again
    starts = [state for state in states if state.epoch in (3, 6, 9)]
    for state in starts:  # what each training but the first starts from
        for name, mask in state.masks.items():
            torch.testing.assert_close(state.weights[name], first[0].weights[name] * mask)


def test_a_finished_run_holds_what_the_design_says(config, tmp_path):
    result = quiet_run(config, tmp_path)
    assert file_names(tmp_path) == {result.folder.name} == {config.id}
    assert file_names(result.folder) == DONE
    assert json.loads((result.folder / "config.json").read_text()) == config.to_dict()
    assert folders.read_history(result.folder)["epoch"].tolist() == [1, 2, 3, 4]
    written = json.loads((result.folder / "result.json").read_text())
    metrics = {"test_accuracy", "test_loss", "achieved_sparsity", "compression_ratio"}
    assert metrics | {"seconds", "versions", "machine"} <= set(written)
    assert written == result.metrics


def test_a_finished_run_is_skipped(config, tmp_path, finished):
    folder = finished
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    quiet_run(config, tmp_path)
    assert before == {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def reject(constant):
    raise ValueError(constant)


def test_results_are_json_without_nan(config, tmp_path):
    result = quiet_run(replace(config, validation=0.0), tmp_path)
    text = (result.folder / "result.json").read_text()
    assert json.loads(text, parse_constant=reject)["validation_loss"] is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_metric_that_is_not_finite_is_null(config, tmp_path, monkeypatch, value):
    summary = running.summarise

    def odd(*args):
        return summary(*args) | {"test_loss": value, "nested": {"log_likelihood": [value, 1.0]}}

    monkeypatch.setattr(running, "summarise", odd)
    result = quiet_run(config, tmp_path)
    read = json.loads((result.folder / "result.json").read_text(), parse_constant=reject)
    assert read["test_loss"] is None and read["nested"] == {"log_likelihood": [None, 1.0]}
    assert "test loss not finite" in repr(result)


def test_the_disk_is_full_while_saving(config, tmp_path, monkeypatch, whole):
    folder = interrupted(config, tmp_path / "a", monkeypatch)
    before = (folder / "checkpoint.pt").read_bytes()
    fsync = os.fsync

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        quiet_run(config, tmp_path / "a")
    assert (folder / "checkpoint.pt").read_bytes() == before
    monkeypatch.setattr(os, "fsync", fsync)
    quiet_run(config, tmp_path / "a")
    assert same_runs(folder, whole(config))


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
    quiet_run(config, tmp_path / "a")
    assert same_runs(folder, whole(config))
    may_differ = {"seconds", "finished", "commit", "sha256", "history_sha256"}
    first, second = (folders.read_result(place) for place in (folder, whole(config)))
    assert first.keys() == second.keys()
    assert {key for key in first if first[key] != second[key]} <= may_differ


def test_interrupted_at_every_epoch(config, tmp_path, monkeypatch, whole):
    for _ in range(4):
        folder = interrupted(config, tmp_path / "a", monkeypatch, 1)
    quiet_run(config, tmp_path / "a")
    assert same_runs(folder, whole(config))


def test_a_result_contains_sizes_and_metrics(finished_run):
    metrics = finished_run.metrics
    assert metrics["method"] == "bayes_magnitude"
    assert metrics["achieved_sparsity"] == pytest.approx(0.5, abs=1e-3)
    prunable, parameters = (
        64 * 16 + 16 * 16 + 16 * 10,
        sum(p.numel() for p in FCN((1, 8, 8), 10, (16, 16)).parameters()),
    )
    assert (metrics["prunable"], metrics["parameters"]) == (prunable, parameters)
    pruned = round(64 * 16 / 2) + round(16 * 16 / 2) + round(16 * 10 / 2)
    assert metrics["compression_ratio"] == pytest.approx(parameters / (parameters - pruned))
    assert metrics["multiply_adds"] == prunable
    assert metrics["theoretical_speedup"] == pytest.approx(prunable / (prunable - pruned))
    assert {"python", "torch", "pyro-ppl"} <= set(metrics["versions"])


def test_a_missing_state_of_a_rewinding_is_an_error(config, tmp_path, monkeypatch):
    config = replace(config, restart="rewind", rewind_epoch=1)
    folder = interrupted(config, tmp_path, monkeypatch)
    (folder / folders.EARLY).unlink()
    with pytest.raises(RunError, match="early.pt is missing"):
        quiet_run(config, tmp_path)
