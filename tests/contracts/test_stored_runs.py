"""Files that older versions wrote: they are shown, verified, resumed and reported, ids stay."""

import json
import shutil
from pathlib import Path

import make_fixtures
import pandas as pd
import pytest
from make_fixtures import FINISHED, FOLDER, UNFINISHED

import pyro_bayesprune as bp
from pyro_bayesprune._utils.files import digest
from pyro_bayesprune.cli import main
from pyro_bayesprune.experiments.config import Config
from pyro_bayesprune.experiments.loading import load_run
from pyro_bayesprune.experiments.running import run

ROOT = Path(__file__).parents[2]
STORES = sorted([*ROOT.glob("reports/**/results.csv"), FOLDER / "store" / "results.csv"])
STORED = json.loads((FOLDER / "weights.json").read_text())


@pytest.fixture
def folders(tmp_path):
    return shutil.copytree(FOLDER / "folders", tmp_path / "runs")


@pytest.fixture
def same_machine():
    here = make_fixtures.where()
    if here != {name: STORED[name] for name in here}:
        pytest.skip(f"the bits of weights are compared on {STORED['processor']} only, not {here}")


def test_a_finished_run_is_shown_and_its_decisions_follow(folders, capsys):
    assert main(["show", "--verify", str(folders / FINISHED.id)]) == 0
    assert "all decisions follow" in capsys.readouterr().out
    assert load_run(folders / FINISHED.id).metrics["achieved_sparsity"] == pytest.approx(0.8, 0.01)


def test_a_finished_run_is_not_run_again(folders):
    before = (folders / FINISHED.id / "result.json").read_bytes()
    run(FINISHED, out=folders, progress=False)
    assert (folders / FINISHED.id / "result.json").read_bytes() == before


def test_an_unfinished_run_goes_on(folders):
    first = pd.read_csv(folders / UNFINISHED.id / "history.csv")
    result = run(UNFINISHED, out=folders, progress=False)
    assert len(first) == 1 and len(result.history) == 3
    assert result.history.iloc[0]["train_loss"] == first.iloc[0]["train_loss"]


@pytest.mark.slow
def test_folders_and_stores_are_reported(folders, tmp_path):
    page = tmp_path / "report.html"
    sources = [str(folders / FINISHED.id), str(FOLDER / "store")]
    assert main(["report", *sources, "-o", str(page)]) == 0
    assert FINISHED.id in page.read_text()
    assert len(bp.load_histories(FOLDER / "store")) == 3 + 2 + 2


@pytest.mark.parametrize("path", STORES, ids=lambda path: path.parent.name)
def test_every_row_gives_its_id_from_its_settings(path):
    rows = bp.load_results(path.parent).to_dict("records")
    assert rows
    for row in rows:
        values = {name: row[name] for name in Config.__dataclass_fields__ if name in row}
        for name in ("hidden", "channels"):
            values[name] = json.loads(values[name])
        if values["sparsity"] != "auto":
            values["sparsity"] = float(values["sparsity"])
        if values["restart"] != "no":  # `epochs` counts those of all rounds
            values["epochs"] //= int(values.get("rounds", 1)) + 1
        assert Config.from_dict(values).id == row["id"]


@pytest.mark.parametrize("name", make_fixtures.TRAININGS)
def test_weights_are_those_of_old_bit_for_bit(name, same_machine, hashes):
    assert hashes[name] == STORED["weights"][name]


@pytest.fixture(scope="module")
def hashes(tmp_path_factory):
    return make_fixtures.final_hashes(tmp_path_factory.mktemp("runs"))


def test_a_resumed_run_ends_where_the_undisturbed_one_does(folders, same_machine):
    assert digest(run(UNFINISHED, out=folders, progress=False).weights) == STORED["resumed"]
