"""Reports of fits, and of targets that are no classes."""

from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_bayesprune as bp
from pyro_bayesprune.inference.samplers import posterior_draws
from pyro_bayesprune.reporting import summary
from pyro_bayesprune.reporting.fits import run_of_fit
from pyro_bayesprune.reporting.flags import flags
from pyro_bayesprune.reporting.page import report


def by_hand(x, y=None):
    """A regression with a sampled noise."""
    w = pyro.sample("w", dist.Normal(torch.zeros(4), 1.0).to_event(1))
    noise = pyro.sample("noise", dist.LogNormal(-1.0, 0.5))
    with pyro.plate("data", 60, subsample=x):
        return pyro.sample("y", dist.Normal(x @ w, noise), obs=y)


@pytest.fixture(scope="module")
def fitted():
    torch.manual_seed(0)
    x = torch.randn(90, 4)
    y = x[:, 0] - 2 * x[:, 1] + 0.3 * torch.randn(90)
    data = bp.Dataset(x[:60], y[:60], test_x=x[60:], test_y=y[60:], name="numbers")
    optim = pyro.optim.Adam({"lr": 0.1})
    fit = bp.fit(by_hand, data, pruning=bp.Pruning(sparsity=0.5), epochs=20, optim=optim,
                 progress=False)  # fmt: skip
    return fit, data, posterior_draws(fit, data, "nuts", draws=15, chains=2, warmup=5)


def test_the_report_of_a_fit_by_hand_has_its_draws_and_calibration(fitted, tmp_path):
    fit, data, draws = fitted
    html = report(fit, data, tmp_path / "report.html", draws=draws).read_text()
    for text in ("numbers by_hand fit 0.5", "RMSE", "coverage of 90% intervals", "a fit in Python",
                 "Probability integral transform", "Distribution of the targets",
                 "Surviving weights and their prior", "File size"):  # fmt: skip
        assert text in html, text
    assert "Test RMSE" in html and "Test accuracy" not in html


def test_the_results_of_a_fit_are_those_of_its_predictions(fitted):
    fit, data, draws = fitted
    run = run_of_fit(fit, data, draws)
    rmse = (fit.predict(data.test_x) - data.test_y).square().mean().sqrt().item()
    assert run.score == "rmse" and run.test_score == pytest.approx(rmse, rel=1e-5)
    names = [row["network"] for row in run.analysis["scores"]]
    assert names == ["MAP", "mean over draws"]
    assert run.metrics["compression_ratio"] == pytest.approx(5 / 3)  # 4 weights and the noise
    assert sum(row["examples"] for row in run.analysis["pit"]) == 2 * 30


def test_a_fit_needs_its_data(fitted, tmp_path):
    with pytest.raises(ValueError, match="needs its data"):
        report(fitted[0], tmp_path / "report.html")
    with pytest.raises(ValueError, match="for the report of a fit"):
        report([tmp_path], draws=fitted[2])


class Sum(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, first, second):
        return self.fc(first + second)


def test_a_fit_with_inputs_of_several_tensors_is_reported(tmp_path):
    x, y = (torch.randn(30, 4), torch.randn(30, 4)), torch.arange(30) % 3
    data = bp.Dataset(x, y, x, y, x, y)
    model = bp.BayesianModule(Sum(), bp.priors.normal(1.0), 30)
    fit = bp.fit(model, data, epochs=2, progress=False)
    assert "accuracy" in bp.report(fit, data, tmp_path / "report.html").read_text()


def test_sizes_of_a_fit_are_those_of_its_network():
    torch.manual_seed(0)
    x, net = torch.randn(40, 9, dtype=torch.float64), nn.Linear(9, 4, dtype=torch.float64)
    data = bp.Dataset(x, x[:, :4], test_x=x, test_y=x[:, :4])
    likelihood = bp.likelihoods.gaussian(dist.LogNormal(0.0, 1.0))
    model = bp.BayesianModule(net, bp.priors.layer_scale(0.3), 40, likelihood)
    pruning = bp.Pruning(sparsity=0.5, gate="always", schedule="constant")
    fit = bp.fit(model, data, pruning=pruning, epochs=1, progress=False)
    run = run_of_fit(fit, data)
    assert run.metrics["parameters"] == 40
    assert run.metrics["compression_ratio"] == pytest.approx(40 / 22)
    size = sum(w.numel() * w.element_size() + summary.HEADER for w in fit.weights.values())
    assert summary._sizes_of(run)[1] == pytest.approx(size / 1000)


def test_a_layer_without_weights_is_a_problem_in_the_report_of_a_fit():
    x = torch.randn(40, 3)
    data = bp.Dataset(x, x.argmax(1), test_x=x, test_y=x.argmax(1))
    net = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 3))
    model = bp.BayesianModule(net, bp.priors.normal(0.3), 40)
    fit = bp.fit(model, data, epochs=1, progress=False)
    masks = fit.masks | {"0.weight": torch.zeros(2, 3, dtype=torch.bool)}
    fit = replace(fit, state=replace(fit.state, masks=masks))
    assert "collapsed" in {flag.name for flag in flags([run_of_fit(fit, data)])}


def test_a_fit_that_guesses_is_a_problem_in_its_report():
    torch.manual_seed(0)
    x, y = torch.randn(200, 3), torch.arange(200) % 4
    model = bp.BayesianModule(nn.Linear(3, 4), bp.priors.normal(0.3), 200)
    fit = bp.fit(model, (x, y), epochs=1, progress=False)
    data = bp.Dataset(x, y, test_x=x, test_y=fit.predict_proba(x).argmin(1))
    assert "guessing" in {flag.name for flag in flags([run_of_fit(fit, data)])}


@pytest.mark.parametrize(
    "likelihood",
    [
        lambda outputs: dist.NegativeBinomial(5.0, logits=outputs).to_event(1),
        lambda outputs: dist.Cauchy(outputs, 1.0).to_event(1),
    ],
    ids=["no distribution function", "no mean"],
)
def test_the_report_of_targets_without_a_known_distribution_function_or_mean(likelihood, tmp_path):
    x, y = torch.randn(40, 3), torch.arange(40.0)[:, None] % 5
    data = bp.Dataset(x, y, test_x=x, test_y=y)
    model = bp.BayesianModule(nn.Linear(3, 1), bp.priors.normal(0.3), 40, likelihood)
    fit = bp.fit(model, data, epochs=1, progress=False)
    assert "NLL" in report(fit, data, tmp_path / "report.html").read_text()
