"""The command line: exit codes, one line for each mistake, configuration files, what it prints."""

import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from helpers import BAD, write

import pyro_bayesprune as bp
from pyro_bayesprune.cli.app import COMMANDS, main
from pyro_bayesprune.data.builtin import DATA_VARIABLE
from pyro_bayesprune.experiments.config import Config, configure
from pyro_bayesprune.pruning.registry import METHODS

TINY = ["--hidden", "8", "--epochs", "2", "--batch_size", "256"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Every test has an empty folder to itself, and no data folder but its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def called(capsys, *arguments):
    """Exit code, lines of output and lines of errors of a command."""
    code = main([str(argument) for argument in arguments])
    streams = capsys.readouterr()
    return code, streams.out.splitlines(), streams.err.splitlines()


def only_config(tmp_path):
    """The configuration of the one run there is."""
    [path] = tmp_path.glob("runs/*/config.json")
    return Config.from_dict(json.loads(path.read_text()))


# --- mistakes


MISTAKES = {
    "no_such_command": (["train"], "unknown command 'train': expected run, "),
    "unknown_dataset": (["run", "--dataset", "imagenet"], "unknown data set 'imagenet'"),
    "unknown_network": (["run", "--network", "mlp"], "network.*'fcn', 'cnn'"),
    "unknown_prior": (["run", "--prior", "horseshoe"], "prior.*'normal', "),
    "unknown_criterion": (["run", "--criterion", "size"], "criterion.*'magnitude', 'random'"),
    "unknown_method": (["run", "--method", "best"], "method.*'unpruned', "),
    "unknown_preset": (["run", "--preset", "theirs"], "preset.*'default', 'paper'"),
    "unknown_gate": (["run", "--gate", "open"], "gate.*'propose', 'previous', 'always'"),
    "unknown_schedule": (["run", "--schedule", "linear"], "schedule.*'cubic', "),
    "unknown_option": (["run", "--layers", "3"], "unrecognized arguments: --layers"),
    "unknown_word": (["run", "everything"], "unrecognized arguments: everything"),
    "missing_value": (["run", "--seed"], "--seed: expected one argument"),
    "sparsity_of_one": (["run", "--sparsity", "1"], r"sparsity must be in \[0, 1\), got 1"),
    "negative_sparsity": (["run", "--sparsity=-0.5"], "sparsity must be in"),
    "sparsity_a_word": (["run", "--sparsity", "most"], "sparsity.*float or auto.*most"),
    "no_epochs": (["run", "--epochs", "0"], "epochs must be positive, got 0"),
    "half_an_epoch": (["run", "--epochs", "1.5"], "epochs.*expected int.*1.5"),
    "negative_beta": (["run", "--beta=-1"], "beta must be at least 0, got -1"),
    "prior_scale_zero": (["run", "--prior_scale", "0"], "prior_scale must be positive"),
    "beta_nan": (["run", "--beta", "nan"], "beta.*nan"),
    "learning_rate_infinite": (["run", "--learning_rate", "inf"], "learning_rate.*inf"),
    "width_zero": (["run", "--hidden", "8,0"], "hidden must be positive integers"),
    "one_channel": (["run", "--channels", "3"], "channels.*2 elements"),
    "validation": (["run", "--validation", "1"], "validation must be in"),
    "method_and_objective": (
        ["run", "--method", "magnitude", "--objective", "map"],
        "the method 'magnitude' decides objective: give the method or these, not both",
    ),
    "method_and_gate": (["run", "--method", "bayes_random", "--gate=always"], "decides gate"),
    "unpruned_sparsity": (["run", "--method", "unpruned", "--sparsity=0.5"], "decides sparsity"),
    "no_such_device": (["run", "--device", "gpu"], "device 'gpu' cannot be used here"),
    "device_without_values": (["run", "--device", "meta"], "device 'meta' cannot be used here"),
    "config_missing": (["run", "--config", "no.yaml"], "cannot read no.yaml"),
    "show_nothing": (["show"], "arguments are required: runs"),
    "show_no_run": (["show", "nowhere"], "nowhere is not a finished run"),
    "data_action": (["data", "delete"], "delete"),
    "fetch_nothing": (["data", "fetch"], "data fetch needs a name, one of mnist, "),
    "fetch_digits": (["data", "fetch", "digits"], "cannot fetch 'digits': expected one of mnist"),
    "grid_vary": (["grid", "--vary", "beta"], "--vary must be setting=value,value…, got 'beta'"),
    "grid_vary_yaml": (["grid", "--vary", "beta=[1"], "--vary must be setting=value"),
    "grid_vary_what": (["grid", "--vary", "width=5"], "unknown settings"),
    "grid_seeds": (["grid", "--seeds", "a,b"], "--seeds must be comma-separated numbers"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_two(capsys, tmp_path, name):
    arguments, message = MISTAKES[name]
    code, out, errors = called(capsys, *arguments)
    assert (code, out) == (2, [])
    assert len(errors) == 1 and errors[0].startswith("bayesprune: error: ")
    assert re.search(message, errors[0]), errors[0]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("case", BAD)
def test_a_malformed_data_file_is_one_line(capsys, tmp_path, case):
    changes, message = BAD[case]
    path = write(tmp_path, **changes)
    code, out, errors = called(capsys, "run", "--dataset", path, *TINY)
    assert (code, out, len(errors)) == (2, [], 1)
    assert re.search(message, errors[0]) and str(path) in errors[0]


def test_a_truncated_data_file_is_one_line(capsys, tmp_path):
    path = write(tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    code, _, errors = called(capsys, "run", "--dataset", path, *TINY)
    assert (code, len(errors)) == (2, 1) and "not a readable safetensors file" in errors[0]


CONFIGS = {
    "unknown.yaml": ("layers: 3", "unknown settings .'layers'."),
    "range.yaml": ("sparsity: 1.5", "sparsity must be in"),
    "type.yaml": ("epochs: many", "epochs must be an integer, got 'many'"),
    "width.yaml": ("hidden: 5", "hidden must be positive integers, got 5"),
    "dataset.yaml": ("dataset: 3", "dataset must be a text, got 3"),
    "list.yaml": ("- epochs", "must be a table of settings"),
    "keys.yaml": ("1: 2", "must be a table of settings"),
    "empty.yaml": ("", "must be a table of settings"),
    "syntax.yaml": ("epochs: [1", "cannot read syntax.yaml"),
    "tag.yaml": ("seed: !!python/object/apply:os.getpid []", "cannot read tag.yaml"),
    "syntax.toml": ("epochs = ", "cannot read syntax.toml"),
    "unknown.toml": ("layers = 3", "unknown settings .'layers'."),
    "preset.yaml": ("preset: [paper]", "unknown preset"),
    "nested.yaml": ("hidden: [[8]]", "hidden must be a plain value or a list of them"),
    "table.yaml": ("epochs: {a: 1}", "epochs must be a plain value"),
    "aliases.yaml": (
        "\n".join([f"a{i}: &a{i} [" + f"*a{i - 1}, " * 9 * (i > 0) + "1]" for i in range(12)]),
        "a1 must be a plain value",
    ),
    "deep.yaml": ("hidden: " + "[" * 5000, "cannot read deep.yaml"),
    "deep.toml": ("hidden = " + "[" * 5000, "cannot read deep.toml"),
    "both.yaml": ("method: magnitude\ngate: always", "decides gate"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_mistake_in_a_configuration_file_is_one_line(capsys, tmp_path, name):
    text, message = CONFIGS[name]
    (tmp_path / name).write_text(text)
    code, out, errors = called(capsys, "run", "--config", name)
    assert (code, out, len(errors)) == (2, [], 1)
    assert re.search(message, errors[0]), errors[0]


def test_no_command_prints_what_there_is(capsys):
    code, out, _ = called(capsys)
    assert code == 2 and any(line.strip().startswith("run") for line in out)


# --- failures


DIVERGING = [*TINY, "--learning_rate", "1e30"]


def test_a_training_that_fails_is_one_line_and_exit_code_one(capsys):
    code, out, errors = called(capsys, "run", *DIVERGING)
    assert (code, out) == (1, [])
    assert errors[-1].startswith("bayesprune: error: ") and "Traceback" not in "".join(errors)
    assert sum(line.startswith("bayesprune: error") for line in errors) == 1


def test_debug_shows_the_traceback():
    with pytest.raises(RuntimeError):
        main(["run", *DIVERGING, "--debug"])
    with pytest.raises(ValueError):
        main(["--debug", "run", "--sparsity", "2"])


def test_a_folder_that_cannot_be_written(capsys, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    code, out, errors = called(capsys, "run", *TINY, "--out", "file")
    assert (code, out, len(errors)) == (1, [], 1)


def test_a_failed_download_is_one_line(capsys, tmp_path, monkeypatch):
    import torchvision

    def fail(*args, **options):
        raise OSError("no network")

    monkeypatch.setattr(torchvision.datasets, "MNIST", fail)
    code, out, errors = called(capsys, "run", "--dataset", "mnist", "--data-dir", tmp_path)
    assert (code, out, len(errors)) == (1, [], 1)
    assert "could not download mnist (no network). Put mnist.safetensors into" in errors[0]


# --- settings


def test_settings_from_yaml_and_options_above_them(capsys, tmp_path):
    (tmp_path / "c.yaml").write_text(
        "epochs: 1\nhidden: [8]\nlearning_rate: 1e-3\nsparsity: 0.5\nseed: 4\nbatch_size: 256\n"
    )
    assert called(capsys, "run", "--config", "c.yaml", "--seed", "7")[0] == 0
    assert only_config(tmp_path) == Config(
        epochs=1, hidden=(8,), learning_rate=1e-3, sparsity=0.5, seed=7, batch_size=256
    )


def test_settings_from_toml_with_preset_and_method(capsys, tmp_path):
    (tmp_path / "c.toml").write_text(
        'preset = "paper"\nmethod = "magnitude"\nepochs = 1\nhidden = [8]\nbatch_size = 256\n'
    )
    code, out, _ = called(capsys, "run", "--config", "c.toml", "--method", "bayes_random")
    assert code == 0
    expected = configure("paper", "bayes_random", epochs=1, hidden=(8,), batch_size=256)
    assert only_config(tmp_path) == expected
    assert "Run(digits fcn bayes_random;" in out[0]


@pytest.mark.parametrize("method", METHODS)
def test_methods_by_name(capsys, tmp_path, method):
    arguments = ["run", "--preset", "paper", "--method", method, *TINY]
    assert called(capsys, *arguments)[0] == 0
    expected = configure("paper", method, hidden=(8,), epochs=2, batch_size=256)
    assert only_config(tmp_path) == expected


@pytest.mark.parametrize("given", [["--hidden", "8,4"], ["--hidden=8,4"], ["--hidden", "[8,4]"]])
def test_widths_are_given_with_commas(capsys, tmp_path, given):
    assert called(capsys, "run", *given, "--epochs=1", "--batch-size=256")[0] == 0
    assert only_config(tmp_path).hidden == (8, 4)


@pytest.mark.parametrize("option", ["--data-dir", "--data_dir"])
def test_dashes_and_underscores_are_the_same(capsys, tmp_path, option):
    write(tmp_path).rename(tmp_path / "mnist.safetensors")
    code, out, errors = called(capsys, "run", "--dataset", "mnist", option, tmp_path, *TINY)
    assert code == 0 and "Run(mnist fcn custom;" in out[0]
    code, out, _ = called(capsys, "data", "list", option, tmp_path)
    assert code == 0 and any(str(tmp_path / "mnist.safetensors") in line for line in out)


def test_out_says_where_run_folders_go(capsys, tmp_path):
    assert called(capsys, "run", *TINY, "--out", tmp_path / "deep" / "er")[0] == 0
    assert len(list((tmp_path / "deep" / "er").glob("*/result.json"))) == 1
    assert not (tmp_path / "runs").exists()


# --- what is printed


def test_a_run_shows_its_epochs_and_a_summary(capsys, tmp_path):
    code, out, errors = called(capsys, "run", *TINY)
    assert code == 0 and len(out) == 1 and len(errors) == 2
    for number, line in enumerate(errors, start=1):
        assert re.search(rf"epoch {number}/2  loss [\d.]+  accuracy 0\.\d+  sparsity 0\.\d+", line)
    assert re.search(r"test accuracy 0\.\d{4}, test loss .* compression .*x; steps", out[0])
    code, again, errors = called(capsys, "run", *TINY)  # done before: nothing is trained
    assert (code, again, errors) == (0, out, [])


def test_show_prints_and_verifies(capsys, tmp_path):
    called(capsys, "run", *TINY)
    [folder] = (tmp_path / "runs").iterdir()
    code, out, errors = called(capsys, "show", folder, "--verify")
    assert (code, errors) == (0, [])
    assert out[0].startswith("Run(digits fcn custom;")
    assert [line.split()[0] for line in out[2:4]] == ["1", "2"]
    assert out[-1] == "decisions from their records: all follow"


def test_show_verify_finds_a_decision_that_does_not_follow(capsys, tmp_path, monkeypatch):
    called(capsys, "run", *TINY)
    [folder] = (tmp_path / "runs").iterdir()
    result = bp.load_run(folder)
    result.history.loc[1, "log_threshold"] = 1e9
    monkeypatch.setattr("pyro_bayesprune.experiments.loading.load_run", lambda folder: result)
    code, out, _ = called(capsys, "show", folder, "--verify")
    assert code == 1 and out[-1] == "decisions from their records: do not follow in epochs [2]"


def test_show_names_a_damaged_file(capsys, tmp_path):
    called(capsys, "run", *TINY)
    [folder] = (tmp_path / "runs").iterdir()
    (folder / "history.csv").write_text("epoch\n1\n")
    for arguments in (["show", folder], ["run", *TINY]):
        code, out, errors = called(capsys, *arguments)
        assert (code, out, len(errors)) == (2, [], 1)
        assert "history.csv is damaged" in errors[0] and "Move the folder away" in errors[0]


@pytest.mark.filterwarnings("default::RuntimeWarning")
def test_a_damaged_checkpoint_is_told_in_one_line(capsys, tmp_path):
    folder = tmp_path / "runs" / Config(hidden=(8,), epochs=2, batch_size=256).id
    folder.mkdir(parents=True)
    (folder / "checkpoint.pt").write_bytes(b"rubbish")
    code, _, errors = called(capsys, "run", *TINY)
    assert code == 0
    assert [line for line in errors if "epoch" not in line] == [
        f"bayesprune: warning: {'runs' / folder.relative_to(tmp_path / 'runs')}/checkpoint.pt is "
        "damaged: its checksum does not fit. The run starts over; the file is kept as "
        "checkpoint.pt.damaged"
    ]


def test_data_list_says_what_is_there(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    (tmp_path / "cifar10.safetensors").write_bytes(b"")
    code, out, errors = called(capsys, "data", "list")
    assert (code, errors) == (0, [])
    assert [line.split(maxsplit=1) for line in out] == [
        ["digits", "built in"],
        ["mnist", "not fetched yet"],
        ["fashion_mnist", "not fetched yet"],
        ["cifar10", str(tmp_path / "cifar10.safetensors")],
    ]


def test_data_fetch_writes_the_file_and_prints_its_path(capsys, tmp_path, monkeypatch):
    import torchvision
    from helpers import FakeMNIST

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", FakeMNIST)
    path = tmp_path / "data" / "fashion_mnist.safetensors"
    code, out, errors = called(capsys, "data", "fetch", "fashion_mnist", "--data-dir", path.parent)
    assert (code, out, errors) == (0, [str(path)], []) and path.exists()


# --- report


@pytest.fixture
def trained(capsys, tmp_path):
    """A folder with a run that Laplace can draw around and one, of a Student t prior, not."""
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
    [warning] = [line for line in errors if line.startswith("bayesprune: warning: ")]
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


def test_report_of_a_folder_tells_of_a_failed_run(capsys, trained, tmp_path):
    folder, run, _ = trained
    (run / "result.json").unlink()
    (run / "error.txt").write_text("ValueError: it broke")
    assert called(capsys, "report", folder, "-o", "r.html")[0] == 0
    page = (tmp_path / "r.html").read_text()
    assert "The run did not finish." in page and "ValueError: it broke" in page


@pytest.mark.parametrize(("name", "found"), [("nowhere", "is no folder"), (".", "holds none")])
def test_report_of_no_runs_is_one_line(capsys, name, found):
    code, out, errors = called(capsys, "report", name)
    assert (code, out, len(errors)) == (2, [], 1)
    assert "expected a run folder, a folder of them, or one with a results.csv" in errors[0]
    assert errors[0].endswith(f"{name} {found}")


# --- help


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(capsys, command):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    text = capsys.readouterr().out
    assert stopped.value.code == 0 and text.startswith(f"usage: bayesprune {command}")


def test_help_of_run_is_complete(capsys):
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for name, field in Config.__dataclass_fields__.items():
        assert f"--{name} " in text
        entry = re.split(r" --\w+ ", text[text.rindex(f" --{name} ") + 1 :][len(name) + 2 :])[0]
        assert f"default: {field.default}" in entry.replace("'", ""), name
        assert len(entry.split("(type:")[0].split()) > 2, f"{name} is not described"


def test_help_loads_no_torch():
    code = """
import sys
from pyro_bayesprune.cli import main
assert main(["--help"]) == 0
try:
    main(["run", "--help"])
except SystemExit:
    pass
heavy = {"torch", "pyro", "pandas", "sklearn", "matplotlib", "torchvision", "arviz"}
sys.exit(f"help loads {heavy & set(sys.modules)}" if heavy & set(sys.modules) else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_reader_that_has_seen_enough_is_no_error():
    command = [sys.executable, "-m", "pyro_bayesprune.cli", "data", "list"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()  # as `| head` does
    assert process.stderr.read() == "" and process.wait() == 141
    process.stderr.close()


def test_a_run_leaves_the_default_dtype_and_seed_alone(capsys):
    before = torch.random.get_rng_state()
    called(capsys, "run", *TINY)
    assert torch.get_default_dtype() == torch.float32
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_grid_goes_on_from_the_runs_that_are_committed(tmp_path, capsys):
    store = Path(__file__).parents[2] / "reports" / "paper"
    which = ["--datasets", "mnist", "--networks", "fcn", "--seeds", "0"]
    assert main(["grid", "--store", str(store), "--out", str(tmp_path), *which]) == 0
    assert "nothing left to run: all 22 are done" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
