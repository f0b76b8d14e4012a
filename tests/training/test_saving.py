"""A fit that was saved is loaded as it was, or refused in one sentence."""

import json
import math
from collections import OrderedDict

import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import assert_same, class_data, noisy_net
from helpers.trainings import fresh, short_fit
from torch import nn

import pyro_bayesprune as bp


@pytest.fixture(scope="module")
def fit():
    return short_fit(fresh(noisy_net, prior=bp.priors.layer_scale()), class_data())


@pytest.fixture
def folder(fit, tmp_path):
    return fit.save(tmp_path / "fit")


def test_a_loaded_fit_is_the_saved_one(fit, folder):
    loaded = bp.Fit.load(folder, fresh(noisy_net, prior=bp.priors.layer_scale()))
    for name in ("weights", "masks", "buffers"):
        assert_same(getattr(loaded, name), getattr(fit, name))
    assert list(loaded.masks) == list(fit.masks) and list(loaded.weights) == list(fit.weights)
    numbers = fit.history.select_dtypes("number")
    pd.testing.assert_frame_equal(loaded.history[numbers.columns], numbers, check_exact=True)
    x = class_data().validation_x
    assert torch.equal(loaded.predict_proba(x), fit.predict_proba(x))
    assert torch.equal(loaded.module(x), fit.module(x))
    assert repr(loaded) == repr(fit)
    assert {path.name for path in folder.iterdir()} == {
        "fit.json", "history.csv", "weights.safetensors"
    }  # fmt: skip


def test_a_report_of_a_loaded_fit_has_the_same_numbers(fit, folder, tmp_path):
    data = class_data()
    loaded = bp.Fit.load(folder, fresh(noisy_net, prior=bp.priors.layer_scale()))
    pages = [bp.report(f, data, tmp_path / f"{i}.html") for i, f in enumerate((fit, loaded))]
    first, second = (page.read_text() for page in pages)
    assert first == second


def test_a_loaded_fit_is_trained_further_under_its_masks(fit, folder):
    model = fresh(noisy_net, prior=bp.priors.layer_scale())
    loaded = bp.Fit.load(folder, model)
    more = bp.fit(model, class_data(), epochs=6, state=loaded.state, progress=False)
    assert more.state.epoch == 6
    for name, mask in fit.masks.items():
        assert (more.weights[name][~mask] == 0).all()


def test_a_fit_of_a_hand_written_model_is_loaded(tmp_path):
    def model(x, y=None):
        w = pyro.sample("w", dist.Normal(torch.zeros(4, 3), 1.0).to_event(2))
        with pyro.plate("data", 40, subsample=x):
            return pyro.sample("obs", dist.Categorical(logits=x @ w), obs=y)

    x, y = torch.randn(40, 4), torch.randint(3, (40,))
    fit = bp.fit(model, (x, y), epochs=2, progress=False)
    loaded = bp.Fit.load(fit.save(tmp_path / "fit"), model)
    assert torch.equal(loaded.predict_proba(x), fit.predict_proba(x))


def test_a_fit_with_learnt_noise_is_loaded(tmp_path):
    x = torch.randn(40, 6)
    noise = bp.likelihoods.gaussian(dist.LogNormal(0.0, 1.0))
    model = bp.BayesianModule(nn.Linear(6, 1), bp.priors.normal(1.0), 40, likelihood=noise)
    fit = bp.fit(model, (x, x[:, :1]), epochs=2, progress=False)
    loaded = bp.Fit.load(fit.save(tmp_path / "fit"), model)
    assert_same(loaded.weights, fit.weights)
    assert "noise" in loaded.weights


def test_a_fit_without_epochs_is_loaded(fit, tmp_path):
    pruned = bp.prune(fit.model, fit.weights, class_data(), sparsity=0.75)
    loaded = bp.Fit.load(pruned.save(tmp_path / "fit"), fit.model)
    assert len(loaded.history) == len(pruned.history) and loaded.sparsity == pruned.sparsity
    assert repr(type(pruned).load(tmp_path / "fit", fit.model)) == repr(loaded)


def test_a_newer_fit_replaces_an_older_one_but_nothing_else(fit, folder, tmp_path):
    assert fit.save(folder) == folder
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "result.json").write_text("{}")
    with pytest.raises(ValueError, match="run has other content; a fit needs a folder of its own"):
        fit.save(tmp_path / "run")


def test_another_network_is_refused(folder):
    message = r"fit of another network: '0.bias' is \[8\] there and \[5\] in the model"
    other = bp.BayesianModule(nn.Sequential(nn.Linear(2, 5)), bp.priors.layer_scale(), 200)
    with pytest.raises(ValueError, match=message):
        bp.Fit.load(folder, other)


def test_other_frozen_parameters_are_refused(tmp_path):
    def net():
        layers = noisy_net()
        layers[0].requires_grad_(False)
        return layers

    fit = short_fit(fresh(net), class_data())
    folder = fit.save(tmp_path / "fit")
    same, other = fresh(net), fresh(net)
    with torch.no_grad():
        other.net[0].weight[0, 0] += 1
    assert_same(bp.Fit.load(folder, same).weights, fit.weights)
    with pytest.raises(ValueError, match="with other values of the frozen parameters"):
        bp.Fit.load(folder, other)


def test_damage_and_absence_are_refused(fit, folder):
    with pytest.raises(ValueError, match=r"no complete fit \(fit.json: No such file"):
        bp.Fit.load(folder.parent, fit.model)
    content = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(content[:-1] + b"\x00")
    if content[-1:] == b"\x00":
        (folder / "weights.safetensors").write_bytes(content[:-1] + b"\x01")
    with pytest.raises(ValueError, match="weights.safetensors is damaged: its checksum"):
        bp.Fit.load(folder, fit.model)
    (folder / "fit.json").write_text(json.dumps({"epoch": 1}))
    with pytest.raises(ValueError, match="fit.json is damaged: KeyError"):
        bp.Fit.load(folder, fit.model)


def test_an_interrupted_fit_returns_what_it_reached(monkeypatch):
    data, seen = class_data(), []

    def interrupt(*args, **kwargs):
        seen.append(args)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return step(*args, **kwargs)

    from pyro_bayesprune.training import loop

    step = loop.prune_step
    monkeypatch.setattr(loop, "prune_step", interrupt)
    fit = short_fit(fresh(noisy_net), data)
    assert fit.stopped == "interrupted" and "stopped: interrupted" in repr(fit)
    assert fit.state.epoch == len(fit.history) == 2
    monkeypatch.undo()
    whole = short_fit(fresh(noisy_net), data)
    on = short_fit(fresh(noisy_net), data, state=fit.state)
    assert_same(on.weights, whole.weights)
    assert not math.isnan(on.history["train_loss"].iloc[0])


def test_the_default_learning_rate_falls_at_the_end_of_a_loaded_training_too(tmp_path):
    model, options = fresh(), {"batch_size": 10, "progress": False}
    bp.fit(model, class_data(), epochs=3, **options).save(tmp_path / "fit")
    on = bp.Fit.load(tmp_path / "fit", model)
    for epochs in (4, 5):
        on = bp.fit(model, class_data(), epochs=epochs, state=on.state, **options)
    whole = bp.fit(model, class_data(), epochs=5, **options)
    (first,), (second,) = (f.state.optimizer["optimizer"]["param_groups"] for f in (on, whole))
    assert first["lr"] == second["lr"]


def test_submodules_with_the_names_of_prefixes_are_loaded(tmp_path):
    net = nn.Sequential(OrderedDict(mask=nn.Linear(6, 5), buffer=nn.Linear(5, 3)))
    model = bp.BayesianModule(net, bp.priors.normal(0.3), 48)
    fit = short_fit(model, class_data(), pruning=bp.Pruning(sparsity=0.5, gate="always"))
    fit.save(tmp_path / "fit")
    again = bp.Fit.load(tmp_path / "fit", model)
    assert_same(again.weights, fit.weights)
    assert_same(again.masks, fit.masks)
