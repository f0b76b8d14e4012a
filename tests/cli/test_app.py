"""The command line: exit codes, one line for each mistake, help."""

import re
import subprocess
import sys

import pytest
from helpers.commands import TINY, called

import pyro_bayesprune as bp
from pyro_bayesprune.cli.app import COMMANDS, main

pytestmark = pytest.mark.usefixtures("elsewhere")


# --- mistakes


MISTAKES = {
    "no_such_command": (["train"], "unknown command 'train': expected run, "),
    "unknown_dataset": (["run", "--dataset", "imagenet"], "unknown data set 'imagenet'"),
    "unknown_network": (["run", "--network", "mlp"], "network.*'fcn', 'cnn'"),
    "unknown_prior": (["run", "--prior", "horseshoe"], "prior.*'normal', "),
    "unknown_criterion": (["run", "--criterion", "size"], "criterion.*'magnitude', 'random'"),
    "unknown_method": (["run", "--method", "best"], "method.*'unpruned', "),
    "unknown_preset": (["run", "--preset", "theirs"], "preset.*'default', 'paper'"),
    "unknown_gate": (["run", "--gate", "open"], "gate.*'propose', 'retain', 'previous', 'always'"),
    "unknown_schedule": (["run", "--schedule", "linear"], "schedule.*'cubic', "),
    "unknown_option": (["run", "--layers", "3"], "unrecognized arguments: --layers"),
    "misspelt_option": (["run", "--sparcity", "0.5"], "did you mean '--sparsity'?"),
    "misspelt_command": (["repotr"], "did you mean 'report'?"),
    "misspelt_setting": (["grid", "--vary", "sparcity=0.5"], "did you mean 'sparsity'?"),
    "unknown_word": (["run", "everything"], "unrecognized arguments: everything"),
    "missing_value": (["run", "--seed"], "--seed: expected one argument"),
    "sparsity_of_one": (["run", "--sparsity", "1"], r"sparsity must be in \[0, 1\), got 1"),
    "negative_sparsity": (["run", "--sparsity=-0.5"], "sparsity must be in"),
    "sparsity_a_word": (
        ["run", "--sparsity", "most"],
        "sparsity.*expected float - expected 'auto'.*most",
    ),
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
        "the method 'magnitude' decides objective: specify one of them, not both",
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
    "grid_seeds_yaml": (["grid", "--seeds", "[0"], "--seeds must be value,value…, got '\\[0'"),
    "grid_seeds": (["grid", "--seeds", "a,b"], "seed must be an integer, got 'a'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_two(capsys, tmp_path, name):
    arguments, message = MISTAKES[name]
    code, out, errors = called(capsys, *arguments)
    assert (code, out) == (2, [])
    assert len(errors) == 1 and errors[0].startswith("bayesprune: error: ")
    assert re.search(message, errors[0]), errors[0]
    assert not (tmp_path / "runs").exists()


def test_without_a_command_the_commands_are_printed(capsys):
    code, out, _ = called(capsys)
    assert code == 2 and any(line.strip().startswith("run") for line in out)


def test_the_version_is_printed(capsys):
    code, out, errors = called(capsys, "--version")
    assert (code, out, errors) == (0, [f"pyro_bayesprune {bp.__version__}"], [])


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


# --- help


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(capsys, command):
    with pytest.raises(SystemExit) as exit_:
        main([command, "--help"])
    text = capsys.readouterr().out
    assert exit_.value.code == 0 and text.startswith(f"usage: bayesprune {command}")


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


def test_a_closed_output_is_not_an_error():
    command = [sys.executable, "-m", "pyro_bayesprune.cli", "data", "list"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()  # like `| head`
    assert process.stderr.read() == "" and process.wait() == 141
    process.stderr.close()


def test_closed_streams_are_no_error(tmp_path):
    command = [sys.executable, "-m", "pyro_bayesprune.cli", "run", *TINY, "--out", str(tmp_path)]
    closed = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command]
    assert subprocess.run(closed, cwd=tmp_path).returncode == 0
    assert list(tmp_path.glob("*/result.json"))
