"""The result of a run contains the sizes and metrics of the network."""

import pytest

from pyro_bayesprune.models.networks import FCN


def test_a_result_contains_sizes_and_metrics(finished_run):
    metrics = finished_run.metrics
    assert metrics["method"] == "bayes_magnitude"
    assert metrics["achieved_sparsity"] == pytest.approx(0.5, abs=1e-3)
    prunable, parameters = (
        64 * 16 + 16 * 16 + 16 * 10,
        sum(p.numel() for p in FCN((1, 8, 8), 10, (16, 16)).parameters()),
    )
    assert (metrics["prunable"], metrics["parameters"]) == (prunable, parameters)
    pruned = round(64 * 16 / 2) + round(16 * 16 / 2) + round(16 * 10 / 2)
    assert metrics["compression_ratio"] == pytest.approx(parameters / (parameters - pruned))
    assert metrics["multiply_adds"] == prunable
    assert metrics["theoretical_speedup"] == pytest.approx(prunable / (prunable - pruned))
    assert {"python", "torch", "pyro-ppl"} <= set(metrics["versions"])
