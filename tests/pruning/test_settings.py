"""Settings of pruning: thresholds, and values that are refused."""

import math

import pytest

import pyro_bayesprune as bp


def test_thresholds_are_on_the_scale_asked_for():
    assert bp.Pruning(beta=0.95).log_threshold(200) == pytest.approx(200 * math.log(0.95))
    assert bp.Pruning(beta=0.95, per="dataset").log_threshold(200) == pytest.approx(math.log(0.95))
    assert bp.Pruning(beta=1.0).log_threshold(200) == 0
    assert bp.Pruning(beta=0.0).log_threshold(200) == -math.inf


@pytest.mark.parametrize(
    "options", [{"evaluation": "half"}, {"alpha": 0.0}, {"alpha": 1.0}, {"gate": "always"}]
)
def test_wrong_options_are_named(options):
    name = "evaluation" if "gate" in options else next(iter(options))
    with pytest.raises(ValueError, match=name):
        bp.Pruning(**({"evaluation": "sequential"} | options))


@pytest.mark.parametrize("value", [-0.1, 1.0, 1.5, math.nan, "most", None])
def test_sparsity(value):
    with pytest.raises(ValueError, match=r"sparsity must be in \[0, 1\).*, got"):
        bp.Pruning(sparsity=value)


@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan, "0.9"])
def test_beta(value):
    with pytest.raises(ValueError, match="beta must be a finite number of at least 0, got"):
        bp.Pruning(beta=value)


@pytest.mark.parametrize("name", ["criterion", "gate", "per", "scope", "schedule"])
def test_choices(name):
    with pytest.raises(ValueError, match=f"{name} must be one of .*, got 'nonsense'"):
        bp.Pruning(**{name: "nonsense"})


def test_a_mass_may_not_decide():
    with pytest.raises(ValueError, match="compares a density with a mass"):
        bp.Pruning(pruned_prior="dropped")
    with pytest.raises(ValueError, match="must be 'density' or 'dropped', got 'gone'"):
        bp.Pruning(pruned_prior="gone")
