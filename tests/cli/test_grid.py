"""The command grid: any setting can be an axis, and finished runs are skipped."""

from pathlib import Path

import pytest

from pyro_bayesprune.cli.app import main, parse
from pyro_bayesprune.experiments import results
from pyro_bayesprune.pruning.registry import METHODS


def test_any_setting_can_be_an_axis():
    from pyro_bayesprune.cli.grid import _configurations

    axes = "--datasets digits --networks fcn --seeds 0,1 --sparsities 0.9".split()
    vary = ["--vary", "hidden=[8, 8],[16]", "beta=0,0.5,1"]
    made = _configurations(parse("grid", [*axes, *vary]))
    assert len(made) == 2 * 2 * 3
    assert {(c.hidden, c.beta) for c in made} == {
        (hidden, beta) for hidden in ((8, 8), (16,)) for beta in (0, 0.5, 1)
    }
    assert {c.method for c in made} == {"bayes_magnitude"}  # of the preset's settings
    assert {c.method for c in _configurations(parse("grid", axes))} == set(METHODS)


def test_options_override_the_file_of_settings(tmp_path):
    from pyro_bayesprune.cli.grid import _configurations

    file = tmp_path / "settings.yaml"
    file.write_text("dataset: digits\nsparsity: 0.99\nepochs: 3\nhidden: [8]\n")
    options = "--preset default --sparsities 0.5,0.9 --epochs 4 --vary hidden=[16]".split()
    made = _configurations(parse("grid", [*options, "--config", str(file)]))
    assert [(c.dataset, c.sparsity, c.epochs, c.hidden) for c in made] == [
        ("digits", level, 4, (16,)) for level in (0.5, 0.9)
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--verify", "0"], "verify must be a positive integer, got 0"),
        (["--verify", "1"], "has no finished run of these 1 configurations"),
        (["--epochs", "0"], "epochs must be positive, got 0"),
        (["--jobs", "0"], "jobs must be a positive integer, got 0"),
        (["--threads", "0"], "threads must be a positive integer, got 0"),
        (["--vary", "preset=paper"], "--vary cannot vary the preset"),
        (["--methods", "[magnitude,random]"], "method must be one of"),
        (["--methods", "magnitude", "--sparsities", "auto", "--controls"], "is a number"),
    ],
)
@pytest.mark.usefixtures("elsewhere")
def test_a_wrong_option_is_named(capsys, options, message):
    one = ["--datasets", "digits", "--networks", "fcn", "--methods", "magnitude", "--seeds", "0"]
    assert main(["grid", *one, "--sparsities", "0.5", *options]) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_each_control_is_run_once(tmp_path):
    from pyro_bayesprune.cli.grid import _configurations

    file = tmp_path / "settings.yaml"
    file.write_text("preset: default\nhidden: [8, 8]\n")
    options = ["--datasets", "digits", "--networks", "fcn", "--sparsities", "0.5", "--controls"]
    made = _configurations(parse("grid", [*options, "--config", str(file)]))
    assert {config.prior for config in made} == {"normal_per_datum"}
    methods = ["--methods", "magnitude,bayes_magnitude"]
    twice = _configurations(parse("grid", ["--preset", "default", *options, *methods]))
    assert len({config.id for config in twice}) == len(twice)


@pytest.mark.usefixtures("elsewhere")
def test_a_grid_skips_the_runs_of_its_store(tmp_path, capsys):
    store = Path(__file__).parents[2] / "reports" / "paper"
    selection = ["--datasets", "mnist", "--networks", "fcn", "--seeds", "0"]
    assert main(["grid", "--store", str(store), "--out", str(tmp_path), *selection]) == 0
    assert "nothing to run: all 22 runs are finished" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("elsewhere")
def test_an_empty_value_is_not_the_default(capsys):
    assert main(["grid", "--datasets", ""]) == 2
    assert "--datasets must be value,value…, got ''" in capsys.readouterr().err


@pytest.mark.filterwarnings("default")
@pytest.mark.usefixtures("elsewhere")
def test_runs_that_were_finished_before_are_added_to_the_store(capsys):
    one = ["--datasets", "digits", "--networks", "fcn", "--methods", "magnitude", "--seeds", "0"]
    one += ["--sparsities", "0.5", "--vary", "hidden=[4]", "--epochs", "1"]
    assert main(["grid", *one]) == 0
    capsys.readouterr()
    assert main(["grid", *one, "--store", "store"]) == 0
    assert "1 runs, 0 not finished, 1 at a time\n" in capsys.readouterr().err
    (finished,) = results.known_ids("store")
    (Path("runs") / finished / "result.json").write_text("{")  # damaged: the grid goes on
    assert main(["grid", *one, "--store", "other"]) == 0
    assert "is not added to other" in capsys.readouterr().err
