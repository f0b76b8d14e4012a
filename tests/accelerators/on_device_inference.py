"""Densities, curvature, draws and what follows from them do not depend on the device."""

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from accelerators.on_device_training import digits, fitted, network, p
from torch import nn

import pyro_bayesprune as bp
from pyro_bayesprune.data.loading import as_batches
from pyro_bayesprune.diagnostics import calibration, shift
from pyro_bayesprune.diagnostics.conversion import to_arviz
from pyro_bayesprune.export.compaction import compact
from pyro_bayesprune.export.files import read, write
from pyro_bayesprune.inference import curvature, evidence, metrics, mode
from pyro_bayesprune.inference.log_joint import log_densities, log_joint
from pyro_bayesprune.inference.prediction import labelled_probabilities, predictions
from pyro_bayesprune.inference.samplers import posterior_draws
from pyro_bayesprune.models.plain import bake
from pyro_bayesprune.training.trained import prune

pytestmark = pytest.mark.filterwarnings("ignore:.*assumes a mode:UserWarning")


@pytest.fixture(scope="module")
def fits(device):
    """The same small fit on the CPU and on the device."""
    options = {"hidden": (6, 5), "scope": "layer", "epochs": 2, "sparsity": 0.8}
    return [fitted(where, **options) for where in ("cpu", device)]


def assert_close(here, there, rtol=1e-4, atol=1e-5):
    if isinstance(here, dict):
        assert set(here) == set(there)
        for name, value in here.items():
            assert_close(value, there[name], rtol, atol)
    else:
        here, there = (torch.as_tensor(value, device="cpu") for value in (here, there))
        torch.testing.assert_close(there, here, rtol=rtol, atol=atol)


DATA = {
    "memory": lambda data: data,
    "pair": lambda data: (data.train_x, data.train_y),
    "arrays": lambda data: (data.train_x.numpy(), data.train_y.numpy()),
    "loader": lambda data: torch.utils.data.DataLoader(
        [*zip(data.train_x, data.train_y, strict=True)], 64
    ),
}


@pytest.mark.parametrize("form", DATA)
def test_log_joint_of_data_on_the_cpu(form, fits):
    here, there = (log_joint(fit.model, fit.weights, DATA[form](digits())) for fit in fits)
    assert here.total == pytest.approx(there.total, rel=1e-6)


def test_log_joint_under_masks_and_a_cpu_fit_with_data_on_the_device(fits, device):
    here, there = fits
    expected = log_joint(here.model, here.weights, digits(), here.masks, "dropped")
    results = [log_joint(there.model, there.weights, digits(device), there.masks, "dropped")]
    results.append(log_joint(here.model, here.weights, digits(device), here.masks, "dropped"))
    for result in results:
        assert result.total == pytest.approx(expected.total, rel=1e-6)
    densities, _ = log_densities(there.model, there.weights, digits())
    assert_close(log_densities(here.model, here.weights, digits())[0], densities)


@pytest.mark.parametrize("structure", ["diagonal", "kron", "full"])
def test_evidence(structure, fits):
    results = [
        evidence.log_evidence(f.model, f.weights, digits(), f.masks, structure) for f in fits
    ]
    assert_close(vars(results[0]), vars(results[1]))


FUNCTIONS = {
    "ggn_diagonal": curvature.ggn_diagonal,
    "marginal_precision": evidence.marginal_precision,
    "occam_gains": evidence.occam_gains,
    "evidence_scales": evidence.evidence_scales,
    "gradient": mode.log_joint_gradient,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_curvature(name, fits):
    here, there = (FUNCTIONS[name](f.model, f.weights, digits()) for f in fits)
    assert_close(here, there, atol=1e-3)


class Convolutional(nn.Module):
    """Layers with closed forms, and a recurrent one, which has an exact block."""

    def __init__(self):
        super().__init__()
        self.conv, self.rnn, self.out = nn.Conv2d(1, 2, 3), nn.RNN(12, 4), nn.Linear(24, 10)

    def forward(self, x):
        images = self.conv(x).relu().flatten(2).mT.reshape(len(x), 6, 12)
        return self.out(self.rnn(images.transpose(0, 1))[0].transpose(0, 1).flatten(1))


class Attentive(nn.Module):
    """Each row of an image is a token."""

    def __init__(self):
        super().__init__()
        options = {"dropout": 0.0, "batch_first": True}
        self.encoder = nn.TransformerEncoderLayer(8, 2, 8, **options)
        self.out = nn.Linear(64, 10)

    def forward(self, x):
        return self.out(self.encoder(x.squeeze(1)).flatten(1))


@pytest.mark.parametrize("network", [Convolutional, Attentive])
def test_convolutions_and_exact_blocks(network, device):
    torch.manual_seed(0)
    net = network()
    results = []
    for where in ("cpu", device):
        fit = fitted(where, net=net, epochs=2, criterion="snr", update="condition", gate="propose")
        results.append(fit)
    assert_close(results[0].weights, results[1].weights, atol=1e-3)


METHODS = ("laplace", "last_layer_laplace", "last_layer_nuts", "nuts")


def drawn(fit, method, draws=13):
    options = {"draws": draws, "chains": 2, "warmup": 2, "progress": False}
    return posterior_draws(fit, digits(), method, **options)


@pytest.mark.parametrize("method", METHODS)
def test_draws_and_what_follows_from_them(method, fits, device):
    here, there = (drawn(fit, method) for fit in fits)
    assert there.values.device.type == device and there.log_density.device.type == "cpu"
    if "nuts" not in method:  # a trajectory amplifies rounding
        assert_close(here.values, there.values, atol=1e-3)
    datasets = [to_arviz(d, digits(), examples=20, prior_draws=2) for d in (here, there)]
    for group in ("posterior", "log_likelihood", "sample_stats"):
        for name, values in datasets[0][group].data_vars.items():
            if "nuts" not in method and values.dtype.kind == "f":
                np.testing.assert_allclose(datasets[1][group][name], values, rtol=0.01, atol=0.01)


def test_draws_of_other_sites(device):
    torch.manual_seed(0)
    x, y = torch.randn(30, 2), torch.randn(30, 1)
    likelihood = bp.gaussian(dist.LogNormal(0.0, 1.0))
    for where in ("cpu", device):
        model = bp.BayesianModule(nn.Linear(2, 1), p.layer_scale(), 30, likelihood)
        fit = bp.fit(model, (x, y), epochs=2, device=where, progress=False)
        options = {"draws": 4, "chains": 1, "warmup": 2, "progress": False}
        sites = ["weight", "bias", "weight_scale", "noise"]
        draws = posterior_draws(fit, (x, y), "nuts", sites=sites, **options)
        assert draws.values.device.type == where
        assert {"prediction"} <= set(to_arviz(draws, bp.Dataset(x, y), prior_draws=2)["posterior"])


def test_predictions_and_calibration(fits, device):
    here, there = fits
    data = digits()
    assert_close(here.predict_proba(data.test_x), there.predict_proba(data.test_x))
    tables = []
    for fit in fits:
        probabilities, labels = labelled_probabilities(fit.model, fit.weights, data)
        assert probabilities.device == labels.device
        probabilities = fit.predict_proba(data.test_x)
        tables.append([
            calibration.scores(probabilities, data.test_y),
            calibration.reliability_table(probabilities, data.test_y).to_dict("list"),
            calibration.rejection_table(probabilities, data.test_y).to_dict("list"),
            predictions(fit.model, fit.weights, data).scores(),
            shift.shift_table({"": fit.predict_proba}, data.test_x, data.test_y, angles=())["nll"],
            shift.out_of_distribution_auroc(probabilities, probabilities[:5]),
            metrics.accuracy(probabilities, data.test_y),
            metrics.layer_flops(fit.module, (1, 8, 8)),
            metrics.dead_units(fit.weights, fit.masks),
        ])  # fmt: skip
    for one, other in zip(*tables, strict=True):
        one, other = (v if isinstance(v, dict) else {"": v} for v in (one, other))
        for name in one:
            np.testing.assert_allclose(one[name], other[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("update", ["condition", "project"])
def test_pruning_of_a_trained_network(update, fits, device):
    results = [prune(f.model, f.weights, digits(), 0.9, update=update) for f in fits]
    assert_close(results[0].weights, results[1].weights, atol=1e-3)
    assert results[1].weights["1.weight"].device.type == device


def test_export(fits, tmp_path, device):
    here, there = fits
    x = digits().test_x
    for module in (bake(there), compact(bake(there), (1, 8, 8))):
        assert next(module.parameters()).device.type == device
        assert_close(bake(here)(x), module(x.to(device)))
        for form in ("safetensors", "sparse", "torch"):
            assert write(module, tmp_path / form, (1, 8, 8), format=form)
        assert_close(bake(here)(x), read(tmp_path / "sparse")(x))


def test_a_report_of_a_fit_and_its_draws(fits, tmp_path):
    draws = drawn(fits[1], "last_layer_laplace", draws=25)  # LOO needs 25
    assert bp.report(fits[1], digits(), tmp_path / "report.html", draws=draws).exists()


def test_batches_go_where_the_model_is(device):
    weight = torch.ones(1, device=device)
    assert as_batches(digits(), like=weight).device.type == device
    assert as_batches(digits(device)).device.type == device


def test_set_default_device(fits, device):
    start = network((6, 5)).state_dict()  # a device has random numbers of its own

    def work():
        net = network((6, 5))
        net.load_state_dict(start)
        fit = fitted("cpu", net=net, epochs=2, prior=p.layer_scale(), scope="layer")
        values = {
            "weights": fit.weights,
            "joint": log_joint(fit.model, fit.weights, digits()).total,
        }
        for method in METHODS[:2]:
            draws = drawn(fits[0], method)
            values[method] = draws.values
            to_arviz(draws, digits(), examples=20, prior_draws=2)
        proba = fit.predict_proba(digits().test_x)
        return values | {"scores": calibration.scores(proba, digits().test_y)}

    expected = work()
    torch.set_default_device(device)
    try:
        assert_close(expected, work())
    finally:
        torch.set_default_device(None)
