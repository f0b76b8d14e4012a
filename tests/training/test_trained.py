"""Pruning of trained networks, without training and in a training."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_bayesprune as bp
from pyro_bayesprune._utils.random import random_stream
from pyro_bayesprune.inference.log_joint import log_joint
from pyro_bayesprune.pruning.record import PruneState
from pyro_bayesprune.pruning.replay import replay


def trained(net=None, prior=None, epochs=15):
    data = bp.load_dataset("digits")
    torch.manual_seed(0)
    net = net or bp.FCN(data.shape, 10, (48, 48))
    model = bp.BayesianModule(net, prior or bp.priors.normal(0.3), data.num_train)
    fit = bp.fit(model, data, epochs=epochs, progress=False)
    return fit, data


@pytest.fixture(scope="module")
def fitted():
    return trained()


def loss(pruned, data):
    return bp.metrics.negative_log_likelihood(pruned.predict_proba(data.test_x), data.test_y)


@pytest.mark.parametrize("sparsity", [0.8, 0.9])
def test_conditioning_keeps_more_of_the_network_than_projection(fitted, sparsity):
    fit, data = fitted
    conditioned = bp.prune(fit.model, fit.weights, data, sparsity)
    projected = bp.prune(fit.model, fit.weights, data, sparsity, update="project")
    assert loss(conditioned, data) < loss(projected, data)
    assert conditioned.record.after.total > projected.record.after.total
    for pruned in (conditioned, projected):
        assert pruned.sparsity == pytest.approx(sparsity, abs=1e-3)
        assert all(not pruned.weights[n][~mask].any() for n, mask in pruned.masks.items())
        joint = log_joint(fit.model, pruned.weights, data)
        assert pruned.record.after == joint
    for name, weight in projected.weights.items():
        kept = projected.masks.get(name, torch.ones_like(weight, dtype=torch.bool))
        torch.testing.assert_close(weight[kept], fit.weights[name][kept])


def test_auto_takes_the_highest_level_above_the_threshold(fitted):
    fit, data = fitted
    pruned = bp.prune(fit.model, fit.weights, data, "auto", beta=0.9)
    levels = pruned.levels
    passed = levels["log_bf"] / data.num_train > torch.tensor(0.9).log().item()
    assert (passed == levels["accepted"]).all() and passed.any() and not passed.all()
    assert pruned.sparsity == pytest.approx(levels[passed]["sparsity"].max())
    assert (levels["log_occam_ratio"] > 0).all()
    total = levels["log_likelihood_ratio"] + levels["log_prior_ratio"]
    torch.testing.assert_close(torch.tensor(total), torch.tensor(levels["log_bf"]))


def test_auto_leaves_a_network_alone_that_no_level_suits(fitted):
    fit, data = fitted
    pruned = bp.prune(fit.model, fit.weights, data, "auto", beta=1e6)
    assert pruned.sparsity == 0 and "no level was accepted" in repr(pruned)
    for name, weight in fit.weights.items():
        assert torch.equal(pruned.weights[name], weight)


def test_training_continues_under_the_masks(fitted):
    fit, data = fitted
    pruned = bp.prune(fit.model, fit.weights, data, 0.95)
    further = bp.fit(fit.model, data, state=pruned.state, epochs=3, progress=False)
    assert all(torch.equal(further.masks[n], mask) for n, mask in pruned.masks.items())
    assert loss(further, data) < loss(pruned, data)


def convolutional(dtype=torch.float32):
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 10),
    ).to(dtype)  # fmt: skip


def test_batchnorm_statistics_stay_and_frozen_layers_keep_their_values():
    net = convolutional()
    net[3].weight.requires_grad_(False)
    fit, data = trained(net, epochs=6)
    pruned = bp.prune(fit.model, fit.weights, data, 0.5)
    assert "3.weight" not in pruned.masks and not pruned.record.projected
    for name, value in fit.weights.items():
        if name == "3.weight":
            assert torch.equal(pruned.weights[name], value)
    for name, buffer in fit.buffers.items():
        assert torch.equal(pruned.buffers[name], buffer)
    torch.testing.assert_close(
        pruned.module(data.test_x).softmax(-1), pruned.predict_proba(data.test_x)
    )


def test_a_float64_network_stays_float64():
    digits = bp.load_dataset("digits")
    data = bp.Dataset(digits.train_x.double(), digits.train_y)
    model = bp.BayesianModule(convolutional(torch.float64), bp.priors.normal(0.3), data.num_train)
    fit = bp.fit(model, data, epochs=2, progress=False)
    pruned = bp.prune(fit.model, fit.weights, data, 0.7)
    assert all(w.dtype == torch.float64 for w in pruned.weights.values())
    assert (
        pruned.record.bayes_factor.log
        >= bp.prune(fit.model, fit.weights, data, 0.7, update="project").record.bayes_factor.log
    )


def test_a_handwritten_model_is_projected_with_a_warning():
    def model(x, y=None):
        w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([8]).to_event(1))
        with pyro.plate("data", 50, subsample=x):
            return pyro.sample("obs", dist.Normal(x @ w, 1.0), obs=y)

    torch.manual_seed(0)
    x, weights = torch.randn(50, 8), {"w": torch.randn(8)}
    with pytest.warns(RuntimeWarning, match="projected without conditioning: w"):
        pruned = bp.prune(model, weights, (x, torch.randn(50)), 0.5)
    assert pruned.record.projected == ("w",) and "projected only: w" in repr(pruned)
    largest = weights["w"].abs().topk(4).indices
    torch.testing.assert_close(pruned.weights["w"][largest], weights["w"][largest])
    assert pruned.levels["log_occam_ratio"].isna().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 1.0}, r"sparsity must be in \[0, 1\) or 'auto', got 1.0"),
        ({"update": "move"}, "update must be one of project, condition, got 'move'"),
        ({"weights": {}}, "fc1"),
        ({"data": (torch.randn(3, 1, 8, 8), torch.zeros(3, dtype=torch.long))}, "1295|3"),
    ],
)
def test_a_wrong_argument_is_named(fitted, arguments, message):
    fit, data = fitted
    values = {"weights": fit.weights, "data": data} | arguments
    with pytest.raises(ValueError, match=message):
        bp.prune(fit.model, **values)


@pytest.mark.parametrize("evaluation", ["full", "sequential"])
@pytest.mark.parametrize(
    ("update", "judge"),
    [("condition", "project"), ("project", "condition"), ("project", "project")],
)
def test_a_training_can_judge_and_move_by_conditioning(update, judge, evaluation):
    data = bp.load_dataset("digits")
    torch.manual_seed(0)
    model = bp.BayesianModule(bp.FCN(data.shape, 10, (24,)), bp.priors.normal(0.3), data.num_train)
    pruning = bp.Pruning(
        sparsity=0.8, update=update, judge=judge, evaluation=evaluation, schedule="one_shot"
    )
    fit = bp.fit(model, data, pruning=pruning, epochs=5, progress=False)
    assert replay(fit.history, pruning) == []
    again = bp.fit(model, data, pruning=pruning, epochs=5, progress=False)
    assert all(torch.equal(w, again.weights[n]) for n, w in fit.weights.items())


def test_a_gate_at_the_conditioned_point_accepts_what_it_refuses_at_the_projection(fitted):
    fit, data = fitted
    factors = [
        bp.prune(fit.model, fit.weights, data, 0.9, update=update).record.bayes_factor
        for update in ("project", "condition")
    ]
    assert factors[1].log > factors[0].log
    beta = math.exp(sum(f.log for f in factors) / 2 / data.num_train)  # between the two
    dense = {n: torch.ones_like(m) for n, m in fit.masks.items()}
    state = PruneState(fit.state.weights, dense)
    results = {}
    for judge in ("project", "condition"):
        pruning = bp.Pruning(
            sparsity=0.9, beta=beta, scope="global", schedule="constant", judge=judge
        )
        generator = random_stream(0, "pruning", 1)
        results[judge] = bp.prune_step(fit.model, state, data, pruning, generator=generator)
    new, record = results["condition"]
    assert len(record.tries) == 1 and record.bayes_factor.log == pytest.approx(factors[1].log)
    projected = {n: w * new.masks.get(n, 1) for n, w in fit.state.weights.items()}
    assert all(torch.equal(new.weights[n], w) for n, w in projected.items())
    assert record.after == log_joint(fit.model, projected, data)
    assert len(results["project"][1].tries) > 1
    assert results["project"][1].tries[0].bayes_factor.log == pytest.approx(factors[0].log)


def test_auto_sparsity_judged_at_the_conditioned_point_uses_the_occam_factor_of_the_group():
    data = bp.load_dataset("digits")
    torch.manual_seed(0)
    model = bp.BayesianModule(bp.FCN(data.shape, 10, (24,)), bp.priors.normal(0.3), data.num_train)
    pruning = bp.Pruning(sparsity="auto", judge="condition")
    fit = bp.fit(model, data, pruning=pruning, epochs=5, progress=False)
    pruned = fit.history[fit.history["decision"] == "pruned"]
    assert len(pruned) and (pruned["log_occam_ratio"] > 0).all()
    assert replay(fit.history, pruning) == []


def test_a_prior_without_evidence_has_no_occam_factor(fitted):
    fit, data = fitted
    laplace = bp.BayesianModule(fit.model.net, bp.priors.laplace(0.3), data.num_train)
    pruned = bp.prune(laplace, fit.weights, data, 0.5)
    assert math.isnan(pruned.levels["log_occam_ratio"].iloc[0])
    pruning = bp.Pruning(sparsity="auto", update="condition")
    with pytest.raises(ValueError, match="independent zero-mean Normal priors.*is Laplace"):
        bp.fit(laplace, data, pruning=pruning, epochs=2, progress=False)


def test_a_network_whose_outputs_depend_on_the_batch_is_refused():
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, track_running_stats=False))
    model = bp.BayesianModule(net, bp.priors.normal(0.3), 20)
    data = bp.Dataset(torch.randn(20, 4), torch.arange(20) % 5)
    with pytest.raises(ValueError, match="BatchNorm1d"):
        bp.prune(model, dict(net.named_parameters()), data, 0.5)
    with pytest.raises(ValueError, match="temperature must be a positive"):
        bp.prune(model, dict(net.named_parameters()), data, 0.5, temperature=0.0)


def test_a_pruned_network_does_not_change_with_the_network_that_was_pruned():
    data = bp.Dataset(torch.randn(30, 4), torch.randint(3, (30,)))
    net = nn.Linear(4, 3)
    model = bp.BayesianModule(net, bp.priors.normal(0.3), num_data=30)
    pruned = bp.prune(model, dict(net.named_parameters()), data, 0.5, update="project")
    bias = net.bias.detach().clone()
    nn.init.zeros_(net.bias)
    assert torch.equal(pruned.weights["bias"], bias)


def test_only_an_unknown_evidence_leaves_out_the_occam_factor(fitted, monkeypatch):
    def fails(*args):
        raise ValueError("another problem")

    fit, data = fitted
    monkeypatch.setattr("pyro_bayesprune.training.trained.Conditioning.occam_gain", fails)
    with pytest.raises(ValueError, match="another problem"):
        bp.prune(fit.model, fit.weights, data, 0.5)


def test_a_layer_without_weights_is_named():
    model = bp.BayesianModule(nn.Linear(8, 3), bp.priors.normal(0.3), num_data=30)
    data = bp.Dataset(torch.randn(30, 8), torch.randint(3, (30,)))
    with pytest.warns(RuntimeWarning, match="no weight of weight is left after pruning"):
        bp.prune(model, dict(model.net.named_parameters()), data, 0.999, update="project")


def test_a_pruned_network_is_pruned_further_and_its_zeros_are_no_parameters():
    """For a linear network with gaussian noise, the ratio of evidences is known exactly."""
    torch.manual_seed(0)
    x = torch.randn(60, 6, dtype=torch.float64)
    y = x[:, :2].sum(1, keepdim=True) + 0.5 * torch.randn(60, 1, dtype=torch.float64)
    net = nn.Linear(6, 1, bias=False).double()
    model = bp.BayesianModule(net, bp.priors.normal(0.9), 60, bp.gaussian(0.5))
    mode = torch.linalg.solve(x.T @ x / 0.25 + torch.eye(6) / 0.81, x.T @ y / 0.25).T
    first = bp.prune(model, {"weight": mode}, (x, y), 0.5)
    second = bp.prune(model, first.weights, (x, y), 2 / 3)

    def evidence(pruned):
        kept = x[:, pruned.masks["weight"][0]]
        covariance = 0.25 * torch.eye(60, dtype=torch.float64) + 0.81 * kept @ kept.T
        zeros = torch.zeros(60, dtype=torch.float64)
        return dist.MultivariateNormal(zeros, covariance).log_prob(y[:, 0])

    row = second.levels.iloc[0]
    exact = (evidence(second) - evidence(first)).item()
    assert second.record.sparsity_before == 0.5
    assert row["log_bf"] + row["log_occam_ratio"] == pytest.approx(exact, abs=0.05)
    assert bp.prune(model, first.weights, (x, y), 0.2).record.decision == "unchanged"
