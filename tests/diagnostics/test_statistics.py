"""Diagnostics of draws, and their conditions."""

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from helpers import (
    NOISE,
    PRIOR,
    around,
    class_data,
    closed_form,
    lifted,
    linear_gaussian,
    mlp,
    net_weights,
    random_masks,
)

import pyro_bayesprune as bp
from pyro_bayesprune.diagnostics import _arviz, conversion, statistics
from pyro_bayesprune.inference import samplers


def test_a_map_alone_has_no_diagnostics(drawn_fit):
    fit, data, _, _ = drawn_fit
    one = samplers.posterior_draws(fit, data, "laplace", draws=1)
    point = conversion.to_arviz(one, data, prior_draws=0)
    for diagnostic in (statistics.loo, statistics.summary, statistics.power_scaling):
        with pytest.raises(ValueError, match="a MAP is one point"):
            diagnostic(point)


def test_convergence_of_log_joint_and_predictions(drawn_fit):
    result = statistics.convergence(drawn_fit[-1])
    assert result["rhat_log_joint"] < 1.2 and result["ess_probability"] > 5
    assert result["divergences"] >= 0


def test_stuck_chains_have_a_large_rhat(drawn_fit):
    idata = drawn_fit[-1]
    parts = {name: _arviz.group(idata, name) for name in _arviz.groups(idata)}
    stuck = parts["posterior"].copy(deep=True)
    stuck["log_joint"][:] = np.array([[0.0], [1.0]])
    idata = _arviz.from_datasets(parts | {"posterior": stuck}, idata.attrs)
    assert statistics.convergence(idata)["rhat_log_joint"] == statistics.STUCK


def test_independent_draws_have_no_rhat(drawn_fit):
    fit, data, _, _ = drawn_fit
    draws = samplers.posterior_draws(fit, data, "laplace", draws=30)
    idata = conversion.to_arviz(draws, data, prior_draws=0)
    assert statistics.summary(idata)["r_hat"].isna().all()
    assert statistics.convergence(idata)["rhat_log_joint"] is None
    assert statistics.loo(idata).n_samples == 30


def test_few_draws_are_too_few_for_loo(drawn_fit):
    fit, data, _, _ = drawn_fit
    draws = samplers.posterior_draws(fit, data, "laplace", draws=24)
    with pytest.raises(ValueError, match="LOO needs at least 25 draws in all chains together"):
        statistics.loo(conversion.to_arviz(draws, data, prior_draws=0))


def test_comparisons_need_the_same_examples(drawn_fit):
    fit, data, draws, idata = drawn_fit
    table = statistics.compare({"one": idata, "other": idata})
    assert set(table.index) == {"one", "other"}
    few = conversion.to_arviz(draws, data, examples=10, prior_draws=0)
    with pytest.raises(ValueError, match="same examples"):
        statistics.compare({"one": idata, "other": few})
    with pytest.raises(ValueError, match="two or more"):
        statistics.compare({"one": idata})


def test_class_frequencies_of_data_posterior_and_prior(drawn_fit):
    _, data, _, idata = drawn_fit
    table = statistics.frequencies(idata, 3)
    assert list(table) == ["class", "observed", "posterior", "prior"]
    np.testing.assert_allclose(table.drop(columns="class").sum(), 1)


def test_loo_is_exact_leave_one_out_in_the_linear_gaussian_case():
    """log p(y_i | y_-i), from refits in closed form, example by example."""
    fit, (x, y), _, _ = linear_gaussian(orthogonal=True)
    draws = samplers.posterior_draws(fit, (x, y), "laplace", draws=2000)
    data = bp.Dataset(x, y)
    idata = conversion.to_arviz(draws, data, prior_draws=0)
    result = statistics.loo(idata)
    mask = fit.masks["weight"][0]
    exact = []
    for i in range(len(x)):
        rest = torch.arange(len(x)) != i
        mean, covariance = closed_form(x[rest][:, mask], y[rest])
        row = x[i, mask]
        scale = (row @ covariance @ row + NOISE**2).sqrt()
        exact.append(torch.distributions.Normal(row @ mean, scale).log_prob(y[i, 0]).item())
    np.testing.assert_allclose(result.loo_i, exact, atol=0.04)
    assert result.elpd_loo == pytest.approx(sum(exact), abs=0.3)
    assert statistics.pareto_table(result)["examples"].tolist() == [len(x), 0, 0]


def test_power_scaling_distinguishes_a_strong_from_a_weak_prior():
    assert PRIOR == 1.5
    fit, (x, y), _, _ = linear_gaussian(orthogonal=True)
    sensitivities = {}
    for scale in (1.5, 0.05):
        model = bp.BayesianModule(
            fit.model.net, bp.priors.normal(scale), len(x), fit.model.likelihood
        )
        centre = closed_form(x[:, fit.masks["weight"][0]], y)[0]
        precision = x.mT @ x / NOISE**2
        shrunk = centre * precision[0, 0] / (precision[0, 0] + 1 / scale**2)
        weights = torch.zeros(1, 4).double()
        weights[fit.masks["weight"]] = shrunk
        draws = samplers.posterior_draws(
            around(model, {"weight": weights}, fit.masks), (x, y), "laplace", draws=2000
        )
        idata = conversion.to_arviz(draws, bp.Dataset(x, y), prior_draws=0)
        sensitivities[scale] = statistics.power_scaling(idata)
    name = "layer_norm[weight]"
    assert sensitivities[1.5].loc[name, "prior"] < 0.05 < sensitivities[0.05].loc[name, "prior"]
    assert isinstance(sensitivities[1.5], pd.DataFrame)


def test_power_scaling_of_draws_that_are_far_too_wide_has_no_diagnosis(monkeypatch):
    fit, data, _, _ = linear_gaussian()
    wide = {"weight": torch.full((1, 4), 1e-3, dtype=torch.float64)}  # as if the data said nothing
    monkeypatch.setattr("pyro_bayesprune.inference.laplace.ggn_diagonal", lambda *_, **__: wide)
    draws = samplers.posterior_draws(fit, data, "laplace", draws=500)
    table = statistics.power_scaling(conversion.to_arviz(draws, bp.Dataset(*data), prior_draws=0))
    assert table["diagnosis"].str.contains("reweighting fails").all()
    monkeypatch.undo()
    good = samplers.posterior_draws(fit, data, "last_layer_laplace", draws=500)
    table = statistics.power_scaling(conversion.to_arviz(good, bp.Dataset(*data), prior_draws=0))
    assert not table["diagnosis"].str.contains("reweighting fails").any()


def test_a_dense_network_can_be_compared_with_a_pruned_one(drawn_fit):
    fit, data, _, idata = drawn_fit
    net = mlp()
    dense = around(lifted(net, data), net_weights(net), random_masks(net_weights(net), 0.0))
    laplace = samplers.posterior_draws(dense, data, "laplace", draws=50)
    with pytest.raises(ValueError, match="same approximation"):
        other = conversion.to_arviz(laplace, data, prior_draws=0)
        statistics.compare({"pruned": idata, "dense": other})
    draws = samplers.posterior_draws(dense, data, "last_layer_nuts", draws=20, chains=2, warmup=20)
    other = conversion.to_arviz(draws, data, prior_draws=0)
    assert statistics.compare({"pruned": idata, "dense": other}).index[0] == "pruned"


def test_a_dense_and_a_pruned_network_are_compared_by_their_last_layers_laplace():
    torch.manual_seed(0)
    data, result = class_data(), {}
    for sparsity in (0.0, 0.7):
        net = mlp()
        fit = around(lifted(net, data), net_weights(net), random_masks(net_weights(net), sparsity))
        draws = samplers.posterior_draws(fit, data, "last_layer_laplace", draws=50)
        result[str(sparsity)] = conversion.to_arviz(draws, data, prior_draws=0)
    assert set(statistics.compare(result).index) == {"0.0", "0.7"}


def test_an_example_on_which_all_draws_agree_has_equal_weights():
    same, other = np.full((2, 50, 1), -1e-9), np.random.default_rng(0).normal(size=(2, 50, 1)) / 9
    by_draw = np.concatenate([same, other], 2)
    draws = xr.Dataset({"a": (("chain", "draw"), np.zeros((2, 50)))})
    likelihoods = xr.Dataset({"obs": (("chain", "draw", "example"), by_draw)})
    idata = _arviz.from_datasets({"posterior": draws, "log_likelihood": likelihoods}, {})
    result = statistics.loo(idata)
    assert result.pareto_k.to_numpy()[0] == 0 and not result.warning
    assert result.loo_i.to_numpy()[0] == pytest.approx(-1e-9)


def test_intervals_of_large_targets_have_different_names():
    groups = {
        name: xr.Dataset({"obs": ("n", 1e6 + np.arange(50.0))}) for name in ("observed_data",)
    }
    groups["posterior"] = xr.Dataset({"log_joint": (("chain", "draw"), np.zeros((1, 4)))})
    table = statistics.frequencies(_arviz.from_datasets(groups, {}))
    assert table["target"].nunique() == len(table) == 12
    assert table["target"][0].startswith("below ") and table["target"][11].startswith("above ")
