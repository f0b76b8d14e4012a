"""Settings from configuration files and from options."""

import re

import pytest
from helpers import write
from helpers.commands import TINY, called, only_config

from pyro_bayesprune.experiments.config import configure

pytestmark = pytest.mark.usefixtures("elsewhere")


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
    "nested.yaml": ("hidden: [[8]]", "hidden must be a plain value or a list of plain values"),
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


def test_settings_from_yaml_and_options_above_them(capsys, tmp_path):
    (tmp_path / "c.yaml").write_text(
        "epochs: 1\nhidden: [8]\nlearning_rate: 1e-3\nsparsity: 0.5\nseed: 4\nbatch_size: 256\n"
    )
    assert called(capsys, "run", "--config", "c.yaml", "--seed", "7")[0] == 0
    assert only_config(tmp_path) == configure(
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


@pytest.mark.parametrize(
    "arguments", [["--hidden", "8,4"], ["--hidden=8,4"], ["--hidden", "[8,4]"]]
)
def test_widths_are_separated_by_commas(capsys, tmp_path, arguments):
    assert called(capsys, "run", *arguments, "--epochs=1", "--batch-size=256")[0] == 0
    assert only_config(tmp_path).hidden == (8, 4)


@pytest.mark.parametrize("option", ["--data-dir", "--data_dir"])
def test_dashes_and_underscores_are_the_same(capsys, tmp_path, option):
    write(tmp_path).rename(tmp_path / "mnist.safetensors")
    code, out, errors = called(capsys, "run", "--dataset", "mnist", option, tmp_path, *TINY)
    assert code == 0 and "Run(mnist fcn default;" in out[0]
    code, out, _ = called(capsys, "data", "list", option, tmp_path)
    assert code == 0 and any(str(tmp_path / "mnist.safetensors") in line for line in out)
