"""The command grid: any setting as an axis, and runs that are there already."""

from pathlib import Path

import pytest

from pyro_bayesprune.cli.app import main
from pyro_bayesprune.pruning.registry import METHODS


def test_any_setting_can_be_an_axis():
    from pyro_bayesprune.cli.grid import _grid_configurations

    values = {"datasets": "digits", "networks": "fcn", "seeds": "0,1", "sparsities": "0.9"}
    made = _grid_configurations(values | {"vary": ["hidden=[8, 8],[16]", "beta=0,0.5,1"]})
    assert len(made) == 2 * 2 * 3
    assert {(c.hidden, c.beta) for c in made} == {
        (hidden, beta) for hidden in ((8, 8), (16,)) for beta in (0, 0.5, 1)
    }
    assert {c.method for c in made} == {"bayes_magnitude"}  # what the preset's settings are
    assert {c.method for c in _grid_configurations(values)} == set(METHODS)


@pytest.mark.usefixtures("elsewhere")
def test_a_grid_goes_on_from_the_runs_that_are_committed(tmp_path, capsys):
    store = Path(__file__).parents[2] / "reports" / "paper"
    which = ["--datasets", "mnist", "--networks", "fcn", "--seeds", "0"]
    assert main(["grid", "--store", str(store), "--out", str(tmp_path), *which]) == 0
    assert "nothing left to run: all 22 are done" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
