"""Tables of a user's become data sets of classes; one line says why a file does not fit."""

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.commands import called
from safetensors.numpy import save_file

import pyro_bayesprune as bp

VALUES = np.random.default_rng(0).normal(3.0, 2.0, (60, 2))
KINDS = np.array(["oak", "ash", "elm"] * 20)


def frame(**changes):
    return pd.DataFrame({"height": VALUES[:, 0], "width": VALUES[:, 1], "kind": KINDS} | changes)


@pytest.fixture
def files(tmp_path):
    numbers = np.unique(KINDS, return_inverse=True)[1]
    frame().to_csv(tmp_path / "trees.csv", index=False)
    np.savez(tmp_path / "trees.npz", x=VALUES, kind=KINDS)
    save_file({"x": VALUES, "kind": numbers}, tmp_path / "trees.safetensors")
    return tmp_path


@pytest.mark.parametrize("suffix", ["csv", "npz", "safetensors"])
def test_all_files_give_the_same_data(files, suffix):
    data = bp.load_dataset(str(files / f"trees.{suffix}"), target_column="kind", seed=1)
    expected = bp.load_dataset(str(files / "trees.csv"), target_column="kind", seed=1)
    assert data.sha256 == expected.sha256
    assert (data.num_train, len(data.validation_y), len(data.test_y)) == (43, 5, 12)
    assert (data.num_classes, data.shape, data.name) == (3, (2,), "trees")
    torch.testing.assert_close(data.train_x.mean(0), torch.zeros(2))
    torch.testing.assert_close(data.train_x.std(0, correction=0), torch.ones(2))


def test_a_seed_selects_the_validation_part_but_not_the_test_part(files):
    first, second = (
        bp.load_dataset(str(files / "trees.csv"), target_column="kind", seed=seed)
        for seed in (0, 1)
    )
    assert torch.equal(first.test_y, second.test_y)
    assert not torch.equal(first.validation_x, second.validation_x)
    none = bp.load_dataset(str(files / "trees.csv"), target_column="kind", validation=0.0)
    assert none.validation_x is None and none.num_train == 48


@pytest.mark.parametrize("likelihood, mean, std", [("gaussian", 0.0, 1.0), ("poisson", 6.5, 3.5)])
def test_the_target_may_be_numbers(tmp_path, likelihood, mean, std):
    frame(price=np.arange(60) // 5 + 1).drop(columns="kind").to_csv(tmp_path / "t.csv", index=False)
    data = bp.load_dataset(
        str(tmp_path / "t.csv"), target_column="price", likelihood=likelihood, seed=1
    )
    assert data.train_y.shape == (data.num_train, 1) and data.train_y.dtype == data.train_x.dtype
    assert (data.num_train, len(data.validation_y), len(data.test_y)) == (43, 5, 12)
    parts = torch.cat([data.train_y, data.validation_y, data.test_y])
    if likelihood == "poisson":
        assert parts.flatten().sort().values.tolist() == [float(i // 5 + 1) for i in range(60)]
    assert data.train_y.mean().item() == pytest.approx(mean, abs=0.5 if mean else 1e-6)
    assert data.train_y.std(correction=0).item() == pytest.approx(std, rel=0.1 if mean else 1e-6)


def test_a_regression_on_a_table_from_the_command_line(tmp_path, capsys):
    table = frame(price=1000.5 + 300 * VALUES[:, 0]).drop(columns="kind")
    table.to_csv(tmp_path / "homes.csv", index=False)
    options = "--target-column price --likelihood gaussian --hidden 8,8 --epochs 3 --out".split()
    args = ("run", "--dataset", tmp_path / "homes.csv", *options, tmp_path / "runs")
    code, out, _ = called(capsys, *args)
    assert code == 0 and "rmse" in " ".join(out)
    (result,) = bp.load_results(tmp_path / "runs").to_dict("records")
    assert result["target_column"] == "price" and 0 < result["test_rmse"] < 2


@pytest.mark.parametrize(
    "changes, target, message",
    [
        ({}, "", "needs the name of its target: choose --target-column from height, width, kind"),
        ({}, "sort", "has no column 'sort': choose --target-column from height, width, kind"),
        ({}, "height", "'height' must be classes .*, got real numbers such as"),
        ({"kind": "oak"}, "kind", "'kind' must have two or more classes .*, got 1 values in 60"),
        ({"kind": range(60)}, "kind", "two or more classes .*, got 60 values in 60 rows"),
        ({"kind": [None, *KINDS[1:]]}, "kind", "'kind' has 1 missing values"),
        ({"width": "wide"}, "kind", "the input 'width' must be numbers.*such as 'wide'"),
        ({"width": [np.nan, *VALUES[1:, 1]]}, "kind", "'width' has 1 missing or infinite values"),
    ],
)
def test_a_table_that_does_not_fit_is_one_line(tmp_path, capsys, changes, target, message):
    path = tmp_path / "trees.csv"
    frame(**changes).to_csv(path, index=False)
    with pytest.raises(ValueError, match=message) as error:
        bp.load_dataset(str(path), target_column=target)
    options = ["--target-column", target] if target else []
    code, out, errors = called(capsys, "run", "--dataset", path, *options)
    assert (code, out, errors) == (2, [], [f"bayesprune: error: {error.value}"])


@pytest.mark.parametrize(
    "content, message",
    [("", "cannot be read"), ("kind\noak\nash\noak\nash\n", "has no column but the target")],
)
def test_a_file_without_inputs(tmp_path, content, message):
    (tmp_path / "odd.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        bp.load_dataset(str(tmp_path / "odd.csv"), target_column="kind")


def test_arrays_of_different_lengths(tmp_path):
    np.savez(tmp_path / "odd.npz", x=VALUES[:50], kind=KINDS)
    with pytest.raises(ValueError, match="inputs and 'kind' have 50, 60 rows"):
        bp.load_dataset(str(tmp_path / "odd.npz"), target_column="kind")


def test_a_built_in_data_set_has_no_target():
    with pytest.raises(ValueError, match="digits has none"):
        bp.load_dataset("digits", target_column="label")


@pytest.mark.parametrize("value", [0.1, 1 / 3, 0.7, 7.7, 123.456])
def test_a_column_that_is_constant_in_training_is_only_centred(tmp_path, value):
    np.savez(tmp_path / "t.npz", dose=np.full(60, value), kind=KINDS)
    data = bp.load_dataset(str(tmp_path / "t.npz"), target_column="kind")
    assert data.train_x.abs().max() < 1e-9


def test_row_numbers_are_no_input(tmp_path):
    frame().sort_values("kind").reset_index(drop=True).to_csv(tmp_path / "trees.csv")
    with pytest.raises(ValueError, match="column 1 has no name: name it, or leave it out"):
        bp.load_dataset(str(tmp_path / "trees.csv"), target_column="kind")
