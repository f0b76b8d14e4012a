"""The command run: what it prints, where it writes, how it fails."""

import re

import pytest
import torch
from helpers import BAD, write
from helpers.commands import TINY, called, only_config

from pyro_bayesprune.cli.app import main
from pyro_bayesprune.experiments.config import configure
from pyro_bayesprune.pruning.registry import METHODS

pytestmark = pytest.mark.usefixtures("elsewhere")


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


@pytest.mark.parametrize("method", METHODS)
def test_methods_by_name(capsys, tmp_path, method):
    arguments = ["run", "--preset", "paper", "--method", method, *TINY]
    assert called(capsys, *arguments)[0] == 0
    expected = configure("paper", method, hidden=(8,), epochs=2, batch_size=256)
    assert only_config(tmp_path) == expected


def test_out_says_where_run_folders_go(capsys, tmp_path):
    assert called(capsys, "run", *TINY, "--out", tmp_path / "deep" / "er")[0] == 0
    assert len(list((tmp_path / "deep" / "er").glob("*/result.json"))) == 1
    assert not (tmp_path / "runs").exists()


def test_a_run_shows_its_epochs_and_a_summary(capsys, tmp_path):
    code, out, errors = called(capsys, "run", *TINY)
    assert code == 0 and len(out) == 1 and len(errors) == 1
    assert re.search(r"epoch 2/2  loss [\d.]+  accuracy 0\.\d+  sparsity 0\.\d+", errors[0])
    assert re.search(r"test accuracy 0\.\d{4}, test loss .* compression .*x.*; steps", out[0])
    code, again, errors = called(capsys, "run", *TINY)  # done before: nothing is trained
    assert (code, again, errors) == (0, out, [])


@pytest.mark.filterwarnings("default::RuntimeWarning")
def test_a_damaged_checkpoint_is_reported_on_one_line(capsys, tmp_path):
    folder = tmp_path / "runs" / configure(hidden=(8,), epochs=2, batch_size=256).id
    folder.mkdir(parents=True)
    (folder / "checkpoint.pt").write_bytes(b"rubbish")
    code, _, errors = called(capsys, "run", *TINY)
    assert code == 0
    assert [line for line in errors if "epoch" not in line] == [
        f"bayesprune: warning: {'runs' / folder.relative_to(tmp_path / 'runs')}/checkpoint.pt is "
        "damaged: its checksum does not match. The run starts over; the file is kept as "
        "checkpoint.pt.damaged"
    ]


def test_help_of_run_is_complete(capsys):
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for name, value in configure().to_dict().items():
        assert f"--{name} " in text
        entry = re.split(r" --\w+ ", text[text.rindex(f" --{name} ") + 1 :][len(name) + 2 :])[0]
        shown = f"(default: {value})" in entry.replace("'", "")
        assert shown == (value is not False and value != ""), name
        assert len(entry.split("(default:")[0].split()) > 2, f"{name} is not described"


def test_help_of_run_has_every_option_under_a_topic(capsys):
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    first, *topics = capsys.readouterr().out.split("\n\n")[2:]
    assert first.startswith("options:\n")
    assert set(re.findall(r"^  (?:-h, )?--(\w+)", first, re.M)) == {
        "help", "config", "preset", "method"
    }  # fmt: skip
    assert len(topics) == 6 and all("\n  --" in topic for topic in topics)


def test_a_run_leaves_the_default_dtype_and_seed_alone(capsys):
    before = torch.random.get_rng_state()
    called(capsys, "run", *TINY)
    assert torch.get_default_dtype() == torch.float32
    assert torch.equal(before, torch.random.get_rng_state())
