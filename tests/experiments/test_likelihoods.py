"""Runs with targets that are no classes, from the configuration to what is on disk."""

import pytest
import torch

import pyro_bayesprune as bp
from pyro_bayesprune.experiments import build, results
from pyro_bayesprune.experiments.config import configure

SMALL = {"dataset": "diabetes", "hidden": (6,), "epochs": 2, "sparsity": 0.5}


@pytest.mark.parametrize(("noise", "is_learnt"), [("learnt", True), (0.7, False)])
def test_a_regression_is_run_and_loaded(tmp_path, noise, is_learnt):
    config = configure(**SMALL, likelihood="gaussian", noise=noise)
    run = bp.run(config, out=tmp_path, progress=False)
    data = build.build_data(config)
    prediction = run.model.outputs(run.weights, data.test_x)
    rmse = (prediction - data.test_y).square().mean().sqrt().item()
    assert run.metrics["test_rmse"] == pytest.approx(rmse, rel=1e-5)
    assert run.score == "rmse" and run.metrics["num_outputs"] == 1
    assert {"test_coverage_50", "test_coverage_90", "validation_rmse"} <= set(run.metrics)
    assert ("noise" in run.weights) == is_learnt and "test rmse" in repr(run)
    store = tmp_path / "store"
    results.record(store, run.folder)
    assert results.load_results(store)["noise"].tolist() == [noise]


def test_integer_labels_become_targets_of_a_bernoulli(monkeypatch):
    x, y = torch.randn(20, 3), torch.randint(0, 2, (20,))
    monkeypatch.setattr(build, "load_dataset", lambda *_, **__: bp.Dataset(x, y))
    config = configure(dataset="file", likelihood="bernoulli")
    data = build.build_data(config)
    assert data.train_y.shape == (20, 1) and data.train_y.is_floating_point()
    assert build.num_outputs(config, data) == 1


def test_real_targets_need_another_likelihood_than_categorical(tmp_path):
    with pytest.raises(ValueError, match="real numbers and no classes.*--likelihood gaussian"):
        bp.run(configure(**SMALL), out=tmp_path, progress=False)
