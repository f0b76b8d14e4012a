"""The command show prints a run and verifies its decisions."""

import pytest
from helpers.commands import TINY, called

import pyro_bayesprune as bp

pytestmark = pytest.mark.usefixtures("elsewhere")


def test_show_prints_and_verifies(capsys, tmp_path):
    called(capsys, "run", *TINY)
    [folder] = (tmp_path / "runs").iterdir()
    code, out, errors = called(capsys, "show", folder, "--verify")
    assert (code, errors) == (0, [])
    assert out[0].startswith("Run(digits fcn default;")
    assert [line.split()[0] for line in out[2:4]] == ["1", "2"]
    assert out[-1] == f"{folder.name}: all decisions follow from their records"


def test_show_verify_finds_a_decision_that_does_not_follow(capsys, tmp_path, monkeypatch):
    called(capsys, "run", *TINY)
    [folder] = (tmp_path / "runs").iterdir()
    result = bp.load_run(folder)
    result.history.loc[1, "log_threshold"] = 1e9
    monkeypatch.setattr("pyro_bayesprune.experiments.loading.load_run", lambda folder: result)
    code, out, _ = called(capsys, "show", folder, "--verify")
    assert code == 1
    assert out[-1].endswith(": the decisions of epochs [2] do not follow from their records")


def test_show_prints_a_table_of_a_folder_of_runs(capsys, tmp_path):
    for seed in ("0", "1"):
        called(capsys, "run", *TINY, "--seed", seed)
    failed = tmp_path / "runs" / "zzz"
    failed.mkdir()
    (failed / "config.json").write_text("{")
    code, out, errors = called(capsys, "show", tmp_path / "runs", "--verify")
    assert (code, errors) == (0, [])
    runs = bp.load_runs(tmp_path / "runs")
    assert out[0].startswith("zzz: not finished: ") and "config.json is damaged" in out[0]
    for run, row in zip(runs[:2], out[2:4], strict=True):
        assert run.title in row and f"{run.accuracy:.4f}" in row and row.endswith(run.id)
    assert [line.split(":")[0] for line in out[4:]] == [run.id for run in runs[:2]]


def test_show_names_a_damaged_file(capsys, tmp_path):
    called(capsys, "run", *TINY)
    [folder] = (tmp_path / "runs").iterdir()
    (folder / "history.csv").write_text("epoch\n1\n")
    for arguments in (["show", folder], ["run", *TINY]):
        code, out, errors = called(capsys, *arguments)
        assert (code, out, len(errors)) == (2, [], 1)
        assert "history.csv is damaged" in errors[0] and "Move the folder away" in errors[0]
