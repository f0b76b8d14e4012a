"""The commands prune and export: what they print, what they write, how they fail."""

import json

import pytest
import torch
from helpers.commands import called

import pyro_bayesprune as bp

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture
def run(capsys, tmp_path):
    options = ("--hidden", "32", "--epochs", "15", "--sparsity", "0")
    assert called(capsys, "run", *options)[0] == 0
    [folder] = (tmp_path / "runs").iterdir()
    return folder


def test_the_pruned_network_is_written_beside_the_run_and_can_be_exported(capsys, run):
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    code, out, errors = called(capsys, "prune", run, "--sparsity", "0.8")
    assert (code, errors) == (0, []) and out[-1] == str(run / "pruned-0.8.safetensors")
    assert all((run / name).read_bytes() == content for name, content in before.items())
    record = json.loads((run / "pruned-0.8.json").read_text())
    assert record["requested"] == 0.8 and record["sparsity"] == pytest.approx(0.8, abs=1e-3)
    pruned = bp.load_run(run, "pruned-0.8.safetensors")
    dense, data = bp.load_run(run), bp.load_dataset("digits")
    expected = bp.prune(dense.model, dense.weights, data, 0.8)
    accuracy = bp.metrics.accuracy(pruned.predict_proba(data.test_x), data.test_y)
    assert record["pruned"]["test_accuracy"] == pytest.approx(accuracy)
    assert record["trained"]["test_accuracy"] == dense.accuracy
    for name, weight in pruned.weights.items():
        torch.testing.assert_close(weight, expected.weights[name])
    code, out, _ = called(capsys, "export", run, "--weights", "pruned-0.8.safetensors")
    assert code == 0 and out[0].startswith(str(run / "network.safetensors"))


def test_auto_prints_every_level(capsys, run):
    code, out, _ = called(capsys, "prune", run, "--sparsity", "auto", "--beta", "0.9")
    record = json.loads((run / "pruned-auto-beta=0.9.json").read_text())
    assert code == 0 and len(record["levels"]) == len(out) - 5
    accepted = [row["sparsity"] for row in record["levels"] if row["accepted"]]
    assert record["sparsity"] == pytest.approx(max(accepted))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--sparsity", "1.5"), "sparsity must be in [0, 1) or 'auto', got 1.5"),
        (("--beta", "-1"), "beta must be a finite number of at least 0"),
        (("--update", "both"), "'project', 'condition'"),
    ],
)
def test_a_wrong_option_is_one_line(capsys, run, options, message):
    code, out, errors = called(capsys, "prune", run, *options)
    assert (code, out, len(errors)) == (2, [], 1) and message in errors[0]


def test_a_missing_network_is_one_line(capsys, run):
    code, _, errors = called(capsys, "export", run, "--weights", "pruned-0.5.safetensors")
    assert code == 2 and "pruned-0.5.safetensors is missing" in errors[0]


def test_a_data_file_that_changed_since_the_run_is_refused(capsys, tmp_path):
    rows = [f"{i % 7},{i % 5},{i % 2}" for i in range(40)]
    table = tmp_path / "own.csv"
    table.write_text("\n".join(["a,b,kind", *rows]))
    options = ("--dataset", table, "--target-column", "kind", "--hidden", "4", "--epochs", "1")
    assert called(capsys, "run", *options)[0] == 0
    [folder] = (tmp_path / "runs").iterdir()
    table.write_text("\n".join(["a,b,kind", *rows[::-1], "9,9,1"]))
    for command in (("prune",), ("bench", "deploy"), ("report", "--draws", "none")):
        code, _, errors = called(capsys, *command, folder)
        assert code == 2 and "is a finished run of other data" in errors[-1]
