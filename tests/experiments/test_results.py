"""Stores of results and folders of runs give the same tables."""

import pandas as pd
import pytest
from helpers import only

import pyro_bayesprune as bp
from pyro_bayesprune.experiments import results, statistics
from pyro_bayesprune.experiments.config import ADDED, configure
from pyro_bayesprune.experiments.errors import RunError


def test_a_store_gives_back_what_the_runs_said(tmp_path):
    configs = [
        configure(method=m, hidden=(8,), epochs=2, **s)
        for m, s in (("bayes_magnitude", {"sparsity": 0.5}), ("bayes_unpruned", {}))
    ]
    for config in configs:
        folder = bp.run(config, out=tmp_path / "runs", progress=False).folder
        results.record(tmp_path / "store", folder)
        results.record(tmp_path / "store", folder)  # known: nothing is added
    assert results.known_ids(tmp_path / "store") == {config.id for config in configs}
    one, other = tmp_path / "runs", tmp_path / "store"
    by = ["id", "epoch"]
    for load, keys in ((results.load_results, ["id"]), (results.load_histories, by)):
        first, second = (
            load(folder).sort_values(keys, ignore_index=True) for folder in (one, other)
        )
        first = first.dropna(axis=1, how="all")
        pd.testing.assert_frame_equal(first, second[list(first)], check_dtype=False)
    twins = statistics.twins(results.load_histories(other), results.load_results(other))
    start = only(twins, method="bayes_magnitude", epoch=1)
    assert start["twin_log_bf"] == pytest.approx(start["log_bf"])  # nothing differed before


def test_rows_older_than_a_setting_have_its_default(tmp_path):
    config = configure(method="magnitude", sparsity=0.5, hidden=(8,), epochs=1)
    folder = bp.run(config, out=tmp_path / "runs", progress=False).folder
    results.record(tmp_path, folder)
    whole = pd.read_csv(tmp_path / results.RESULTS, dtype=results.TEXTS)
    whole = whole.fillna({"target_column": ""})  # an empty text
    younger = list(ADDED)
    older = whole.drop(columns=younger).assign(seed=1, id="another")
    pd.concat([older, whole]).to_csv(tmp_path / results.RESULTS, index=False)
    loaded = results.load_results(tmp_path)
    assert statistics.varying(loaded) == []
    assert (loaded[younger] == whole.loc[0, younger]).all(axis=None)


def test_names_that_look_like_numbers_stay_names(tmp_path):
    names = {"id": ["0123456789012345", "12345678901234e5"], "commit": ["31391e7", "0012345"]}
    for file in (results.RESULTS, results.HISTORIES):
        pd.DataFrame(names).to_csv(tmp_path / file, index=False)
    for load in (results.load_results, results.load_histories):
        assert load(tmp_path).to_dict("list") == names
    assert results.known_ids(tmp_path) == set(names["id"])


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(RunError, match="no finished runs"):
        results.load_results(tmp_path)
    with pytest.raises(RunError, match="no finished runs"):
        results.load_histories(tmp_path)


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"\x00\xff\xfe", b'id\n"unfinished'])
def test_a_damaged_file_of_a_store_is_named(tmp_path, content):
    (tmp_path / results.RESULTS).write_bytes(b"id\n1\n")
    (tmp_path / results.HISTORIES).write_bytes(content)
    with pytest.raises(RunError, match="histories.csv.gz is damaged"):
        results.load_histories(tmp_path)
    (tmp_path / results.RESULTS).write_bytes(content)
    for read in (results.load_results, results.known_ids):
        with pytest.raises(RunError, match="results.csv is damaged"):
            read(tmp_path)


def test_a_process_killed_between_the_files_of_a_store_leaves_no_second_history(tmp_path):
    runs = [bp.run(configure(hidden=(4,), epochs=1, seed=s), out=tmp_path / "runs") for s in (0, 1)]
    store = tmp_path / "store"
    results.record(store, runs[0].folder)
    before = (store / results.RESULTS).read_bytes()
    results.record(store, runs[1].folder)
    (store / results.RESULTS).write_bytes(before)  # as if only the histories had been written
    results.record(store, runs[1].folder)
    assert results.load_histories(store)["id"].tolist() == [run.id for run in runs]
