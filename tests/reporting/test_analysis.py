"""An analysis with draws is kept until it is replaced on request."""

import shutil
from pathlib import Path

import pytest
from helpers.made_up_runs import a_run

import pyro_bayesprune as bp
from pyro_bayesprune.diagnostics import conversion
from pyro_bayesprune.experiments.loading import load_run
from pyro_bayesprune.inference import samplers
from pyro_bayesprune.reporting.analysis import analyse
from pyro_bayesprune.reporting.page import report

SMALL = {"method": "last_layer_laplace", "draws": 26}


@pytest.fixture(scope="module")
def data():
    return bp.load_dataset("digits")


@pytest.fixture(scope="module")
def run(tmp_path_factory, data):
    config = bp.configure(hidden=(6,), epochs=1, sparsity=0.5)
    run = bp.run(config, out=tmp_path_factory.mktemp("runs"), progress=False)
    with pytest.warns(UserWarning, match="assumes a mode"):
        analyse(run, data, **SMALL)
    return load_run(run.folder)


@pytest.mark.parametrize("request_", [SMALL, {"method": "none"}, {**SMALL, "chains": 1}])
def test_draws_with_the_same_settings_are_reused(run, data, request_):
    assert analyse(run, data, **request_) == run.analysis


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"draws": 27}, "draws 26, but 27 is requested: redraw"),
        ({"method": "laplace"}, "method last_layer_laplace, but laplace is requested"),
        ({"seed": 1}, "seed 0, but 1 is requested"),
        ({"examples": 10}, "examples 2000, but 10 is requested"),
    ],
)
def test_draws_with_other_settings_are_not_replaced(run, data, change, message):
    before = (run.folder / "analysis.json").read_bytes()
    with pytest.raises(ValueError, match=message):
        analyse(run, data, **(SMALL | change))
    assert (run.folder / "analysis.json").read_bytes() == before


def test_foreign_inputs_are_a_setting(run, data):
    with pytest.raises(ValueError, match="foreign None, but digits is requested"):
        analyse(run, data, method="none", foreign=data)


def test_a_redrawn_analysis_replaces_the_stored_one(run, data, tmp_path):
    copy = load_run(shutil.copytree(run.folder, tmp_path / "run"))
    assert "diagnostics" not in analyse(copy, data, method="none", redraw=True)
    again = analyse(copy, data, method="none", examples=10)  # it has no draws to lose
    assert again["examples"] == 10


def test_a_run_without_a_folder_is_refused(data):
    with pytest.raises(ValueError, match="has no folder"):
        analyse(a_run(), data)
    assert not Path("analysis.json").exists()


@pytest.mark.parametrize(
    "sizes", [{"draws": 10}, {"method": "last_layer_nuts", "draws": 12, "chains": 2}]
)
def test_too_few_draws_are_refused_before_they_are_made(run, data, sizes, monkeypatch):
    monkeypatch.setattr(samplers, "posterior_draws", None)
    before = (run.folder / "posterior.nc").read_bytes()
    with pytest.raises(ValueError, match="at least 25 draws"):
        analyse(run, data, **(SMALL | sizes), redraw=True)
    assert (run.folder / "posterior.nc").read_bytes() == before


def test_an_analysis_that_fails_keeps_the_stored_draws(run, data, monkeypatch):
    monkeypatch.setattr(conversion, "to_arviz", None)
    before = (run.folder / "posterior.nc").read_bytes()
    with pytest.raises(TypeError, match="not callable"), pytest.warns(UserWarning, match="a mode"):
        analyse(run, data, **SMALL, redraw=True)
    assert (run.folder / "posterior.nc").read_bytes() == before


def test_a_damaged_file_of_an_analysis_does_not_hide_the_run(run, tmp_path):
    both = [shutil.copytree(run.folder, tmp_path / name) for name in "ab"]
    (both[0] / "posterior.nc").write_bytes(b"damaged")
    page = report(both, tmp_path / "r.html").read_text()
    assert "Not compared by LOO: " in page and "/a/posterior.nc is not" in page
    (both[0] / "analysis.json").write_text("damaged")
    with pytest.warns(RuntimeWarning, match="analysis.json is damaged"):
        again = load_run(both[0])
    assert again.analysis == {} and again.accuracy == run.accuracy
