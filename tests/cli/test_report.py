"""The command report: one run or many, with draws or without."""

import json
import warnings

import pytest
from helpers import write
from helpers.commands import TINY, called

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture
def trained(capsys, tmp_path):
    """A folder with two runs. Laplace supports only the one with a normal prior."""
    for prior in ("normal", "student_t"):
        called(capsys, "run", *TINY, "--sparsity", "0.8", "--prior", prior)
    runs = {json.loads(path.read_text())["prior"]: path.parent
            for path in tmp_path.glob("runs/*/config.json")}  # fmt: skip
    return runs["normal"].parent, runs["normal"], runs["student_t"]


def test_report_of_many_warns_of_a_run_it_cannot_draw_around(capsys, trained):
    folder, normal, other = trained
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # as on a command line; here warnings are errors
        code, out, errors = called(
            capsys, "report", folder, "--draws", "last_layer_laplace", "-o", "r"
        )
    assert (code, out) == (0, ["r"])
    lines = [line for line in errors if line.startswith("bayesprune: warning: ")]
    [warning] = [line for line in lines if "assumes a mode" not in line]
    assert f"{other} is not analysed: " in warning and "StudentT" in warning
    assert (normal / "posterior.nc").exists() and not (other / "posterior.nc").exists()


def test_report_of_one_that_cannot_be_drawn_around_is_one_line(capsys, trained):
    code, out, errors = called(capsys, "report", trained[2], "--draws", "laplace")
    assert (code, out) == (2, []) and "Normal" in errors[-1]


def test_report_with_too_many_weights_for_nuts_names_them_and_what_to_use(capsys, tmp_path):
    called(capsys, "run", *TINY[2:], "--hidden", "100", "--sparsity", "0.5")
    [run] = (tmp_path / "runs").iterdir()
    code, _, errors = called(capsys, "report", run, "--draws", "nuts")
    assert code == 2 and errors[-1].endswith(
        "nuts is for 1 to 1000 surviving weights, got 3810: use last_layer_nuts or "
        "last_layer_laplace, prune more, or draw from some parameters only (sites=)"
    )


def test_report_with_foreign_data_of_another_shape_is_one_line(capsys, trained, tmp_path):
    foreign = write(tmp_path)
    code, out, errors = called(
        capsys, "report", trained[1], "--draws", "none", "--foreign", foreign
    )
    assert (code, out) == (2, [])
    assert "foreign inputs must have shape (1, 8, 8), got (" in errors[-1]


def test_report_without_weights_is_made_from_the_rest_and_not_drawn_around(capsys, trained):
    _, run, _ = trained
    (run / "weights.safetensors").unlink()
    code, out, errors = called(capsys, "report", run, "-o", "r.html")
    assert (code, out, errors) == (0, ["r.html"], [])
    code, _, errors = called(capsys, "report", run, "--draws", "none")
    assert code == 2 and "weights.safetensors is missing" in errors[-1]


def test_report_of_a_folder_mentions_a_failed_run(capsys, trained, tmp_path):
    folder, run, _ = trained
    (run / "result.json").unlink()
    (run / "error.txt").write_text("ValueError: it broke")
    assert called(capsys, "report", folder, "-o", "r.html")[0] == 0
    page = (tmp_path / "r.html").read_text()
    assert "The run did not finish." in page and "ValueError: it broke" in page


@pytest.mark.parametrize(
    ("name", "problem"), [("nowhere", "is not a folder"), (".", "contains none")]
)
def test_report_of_no_runs_is_one_line(capsys, name, problem):
    code, out, errors = called(capsys, "report", name)
    assert (code, out, len(errors)) == (2, [], 1)
    assert "expected a run folder, a folder of them, or one with a results.csv" in errors[0]
    assert errors[0].endswith(f"{name} {problem}")


def test_a_regression_is_run_and_reported_with_a_number_of_draws(capsys, tmp_path):
    options = ["--dataset", "diabetes", "--likelihood", "gaussian", "--hidden", "[4]"]
    code, out, _ = called(capsys, "run", *options, "--epochs", "2", "--sparsity", "0.5")
    assert code == 0 and "test rmse" in out[-1]
    sizes = ["--num_draws", "13", "--chains", "2", "--warmup", "5"]
    drawn = ["--draws", "last_layer_nuts", *sizes]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert called(capsys, "report", tmp_path / "runs", *drawn, "-o", "r.html")[0] == 0
    page = (tmp_path / "r.html").read_text()
    assert "coverage of 90% intervals" in page and "2 chains of 13 draws" in page
    code, _, errors = called(capsys, "report", tmp_path / "runs", "--draws", "none", "-o", "r.html")
    assert code == 0 and errors[-1].startswith("reusing its draws: Draws(last_layer_nuts: 2 chains")
    code, _, errors = called(capsys, "report", tmp_path / "runs", "--draws", "laplace")
    assert code == 2 and "redraw (--redraw) to replace them" in errors[-1]
    options = ["--draws", "none", "--redraw", "-o", "r.html"]
    assert called(capsys, "report", tmp_path / "runs", *options)[0] == 0
    assert "2 chains of 13 draws" not in (tmp_path / "r.html").read_text()


def test_a_number_of_draws_needs_a_method(capsys, tmp_path):
    code, _, errors = called(capsys, "report", tmp_path, "--chains", "2")
    assert code == 2 and "--chains needs --draws" in errors[-1]
    code, _, errors = called(capsys, "report", tmp_path, "--redraw")
    assert code == 2 and "--redraw needs --draws" in errors[-1]


def test_a_missing_package_names_its_extra(capsys, monkeypatch, trained):
    def fail(*args, **options):
        raise ImportError("No module named 'arviz'")

    monkeypatch.setattr("pyro_bayesprune.reporting.analysis.analyse", fail)
    code, _, errors = called(capsys, "report", trained[1], "--draws", "laplace")
    assert code == 2 and errors[-1].endswith("pip install 'pyro-bayesprune[diagnostics]'")
