"""Results for a loader, and for several inputs, are those for tensors in memory."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import class_data, lifted, net_weights, noisy_net
from helpers.loaders import Rows, Tokens, TwoInputs, forms
from torch import nn
from torch.utils.data import DataLoader

import pyro_bayesprune as bp
from pyro_bayesprune.diagnostics.calibration import scores
from pyro_bayesprune.inference.curvature import ggn_diagonal, ggn_full
from pyro_bayesprune.inference.draw_predictions import predict_proba
from pyro_bayesprune.inference.evidence import log_evidence
from pyro_bayesprune.inference.mode import gradient_norm
from pyro_bayesprune.inference.prediction import (
    class_probabilities,
    held_out_loss,
    labelled_probabilities,
)
from pyro_bayesprune.inference.samplers import posterior_draws
from pyro_bayesprune.pruning.record import PruneState
from pyro_bayesprune.pruning.step import prune_step

DATA = class_data()
X, Y = DATA.train_x, DATA.train_y
N = len(Y)


def near(first, second):
    return second == pytest.approx(first, rel=1e-5, abs=1e-5)


def batch_norm_model():
    net = noisy_net()
    net(X)  # statistics that are not the initial ones
    return lifted(net.eval(), DATA)


def masks_of(weights):
    return {n: torch.ones_like(w, dtype=torch.bool) for n, w in weights.items() if w.dim() == 2}


@pytest.mark.parametrize("form", forms(X, Y))
def test_densities_curvature_and_evidence_of_all_forms(form):
    model, data = batch_norm_model(), forms(X, Y)[form]
    weights, pair = net_weights(model.net), (X, Y)
    for compute in (
        lambda d: bp.log_joint(model, weights, d).total,
        lambda d: gradient_norm(model, weights, {}, d),
        lambda d: ggn_diagonal(model, weights, d)["0.weight"].sum().item(),
        lambda d: ggn_full(model, weights, d, ["4.bias"]).sum().item(),
        lambda d: log_evidence(model, weights, d, structure="kron").log,
        lambda d: held_out_loss(model, weights, d)[0],
    ):
        assert near(compute(pair), compute(data))


@pytest.mark.parametrize("form", forms(X, Y))
@pytest.mark.parametrize("evaluation", ["full", "sequential"])
def test_a_pruning_step_on_all_forms(form, evaluation):
    model = batch_norm_model()
    weights = net_weights(model.net)
    state = PruneState(weights, masks_of(weights))
    how = bp.Pruning("opd", 0.5, "propose", 0.5, schedule="constant", update="condition")
    how = bp.Pruning(**{**vars(how), "evaluation": evaluation})

    def step(data):
        return prune_step(model, state, data, how, generator=torch.Generator().manual_seed(0))

    if evaluation == "sequential" and form in ("list", "stream"):
        with pytest.raises(ValueError, match="'sequential' reads random examples"):
            step(forms(X, Y)[form])
        return
    (expected, one), (actual, other) = step((X, Y)), step(forms(X, Y)[form])
    assert one.decision == other.decision == "pruned"
    assert near(one.bayes_factor.log, other.bayes_factor.log)
    for name, mask in expected.masks.items():
        assert torch.equal(mask, actual.masks[name])
        torch.testing.assert_close(expected.weights[name], actual.weights[name])


def test_a_loader_of_another_size_is_an_error():
    model, data = batch_norm_model(), DataLoader(Rows(X, Y), batch_size=10, drop_last=True)
    with pytest.raises(ValueError, match='plate "data" has size 48, the training data have 40'):
        bp.log_joint(model, net_weights(model.net), data)


def test_predictions_of_a_loader():
    model = batch_norm_model()
    weights = net_weights(model.net)
    expected = class_probabilities(model, weights, X)
    for data in (X.double().numpy(), DataLoader(Rows(X, Y), batch_size=10), Rows(X, Y)):
        torch.testing.assert_close(class_probabilities(model, weights, data), expected)


def test_probabilities_and_labels_of_a_shuffled_loader_have_one_order():
    model = batch_norm_model()
    weights = net_weights(model.net)
    loader = DataLoader(Rows(X, Y), batch_size=10, shuffle=True)
    probabilities, labels = labelled_probabilities(model, weights, loader)
    assert not torch.equal(labels, Y)
    expected = scores(class_probabilities(model, weights, X), Y)
    assert scores(probabilities, labels) == pytest.approx(expected)


@pytest.mark.slow
def test_ten_times_the_data_need_no_more_memory():
    script = Path(__file__).parents[1] / "helpers" / "memory.py"
    peaks = [
        int(
            subprocess.run(
                [sys.executable, script, str(number)], check=True, capture_output=True, text=True
            ).stdout
        )  # fmt: skip
        for number in (4000, 40000)
    ]
    assert peaks[1] <= 1.1 * peaks[0]


def several_inputs():
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(3, (N,), generator=generator)
    pair = torch.randn(N, 3, generator=generator), torch.randn(N, 2, generator=generator)
    names = {"ids": torch.randint(7, (N, 4), generator=generator), "mask": torch.ones(N, 4)}
    return {
        "tuple": (TwoInputs(), pair, y, None),
        "tuple with forward=": (TwoInputs(), pair, y, lambda net, x: net(*x)),
        "dictionary": (Tokens(), names, y, None),
        "dictionary with forward=": (Tokens(), names, y, lambda net, x: net(**x).logits),
    }


def as_loader(x, y):
    """A loader of dictionaries of examples, and how to unpack its batches."""
    rows = [
        {"x": {n: v[i] for n, v in x.items()} if isinstance(x, dict) else tuple(v[i] for v in x)}
        | {"label": y[i]}
        for i in range(len(y))
    ]
    return bp.as_batches(
        DataLoader(rows, batch_size=10), lambda batch: (batch["x"], batch["label"])
    )


class Flat(nn.Module):
    """The same function of one tensor, which the exact tests of the package cover."""

    def __init__(self, net, x):
        super().__init__()
        self.net, self.x = net, x

    def forward(self, rows):
        rows = rows[:, 0].long()
        x = self.x
        if isinstance(x, dict):
            return self.net(**{n: v[rows] for n, v in x.items()}).logits
        return self.net(*(v[rows] for v in x))


@pytest.mark.parametrize("case", several_inputs())
def test_several_inputs_equal_one_tensor(case):
    net, x, y, forward = several_inputs()[case]
    model = bp.BayesianModule(net, bp.priors.normal(0.3), N, forward=forward)
    flat = bp.BayesianModule(Flat(net, x), bp.priors.normal(0.3), N)
    weights = net_weights(net)
    one = {f"net.{name}": value for name, value in weights.items()}
    rows = torch.arange(N).float()[:, None]
    for data in ((x, y), as_loader(x, y)):
        for compute in (
            lambda m, w, d: bp.log_joint(m, w, d).total,
            lambda m, w, d: ggn_full(m, w, d).sum().item(),
            lambda m, w, d: sum(v.sum().item() for v in ggn_diagonal(m, w, d).values()),
            lambda m, w, d: log_evidence(m, w, d, structure="full").log,
            lambda m, w, d: held_out_loss(m, w, d)[0],
        ):
            assert near(compute(flat, one, (rows, y)), compute(model, weights, data))
    probabilities = class_probabilities(flat, one, rows)
    torch.testing.assert_close(class_probabilities(model, weights, x), probabilities)


@pytest.mark.parametrize("case", several_inputs())
def test_a_fit_of_several_inputs(case):
    net, x, y, forward = several_inputs()[case]
    model = bp.BayesianModule(net, bp.priors.normal(0.3), N, forward=forward)
    pruning = bp.Pruning(sparsity=0.5, gate="always", scope="layer")
    fits = [
        bp.fit(model, data, pruning=pruning, epochs=2, progress=False)
        for data in ((x, y), bp.Dataset(x, y, x, y))
    ]
    assert torch.equal(fits[0].predict_proba(x), fits[1].predict_proba(x))
    assert fits[1].history["validation_accuracy"].notna().all()
    sites = {name.rpartition(".")[0] for name in fits[0].masks}
    assert sites == {n for n, m in net.named_modules() if isinstance(m, (nn.Linear, nn.Embedding))}
    draws = posterior_draws(fits[0], as_loader(x, y), draws=20)
    assert predict_proba(draws, x).shape == (N, 3)


@pytest.mark.parametrize("method", ["laplace", "last_layer_laplace", "nuts"])
def test_draws_from_a_loader(method):
    net = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))
    fit = bp.fit(lifted(net, DATA), DATA, epochs=1, progress=False)
    options = {"draws": 5, "chains": 1, "warmup": 5, "method": method}
    expected = posterior_draws(fit, DATA, **options)
    actual = posterior_draws(fit, DataLoader(Rows(X, Y), batch_size=48), **options)
    torch.testing.assert_close(actual.values, expected.values)
