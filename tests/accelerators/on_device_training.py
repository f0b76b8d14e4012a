"""A fit on another device is what it is on the CPU."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from accelerators import imitation
from torch import nn

import pyro_bayesprune as bp
from pyro_bayesprune.models.likelihoods import bernoulli, poisson
from pyro_bayesprune.training.trainer import TrainingDiverged

p = bp.priors
NORMAL = p.normal(0.3)
ALWAYS = {"sparsity": 0.5, "schedule": "constant", "gate": "always"}
FITS = {
    "normal": {"prior": p.normal(0.3)},
    "normal_per_datum": {"prior": p.normal_per_datum(400)},
    "fan_in_normal": {"prior": p.fan_in_normal()},
    "laplace": {"prior": p.laplace(0.1)},
    "student_t": {"prior": p.student_t(3.0, 0.2)},
    "layer_scale": {"prior": p.layer_scale()},
    "evidence_normal": {"prior": p.evidence_normal()},
    "by_site": {"prior": p.by_site({"*.bias": p.student_t(3.0, 1.0), "*": p.layer_scale()})},
    "a prior of the user's": {"prior": lambda n, s: dist.Normal(0.0, 1.0).expand(s).to_event()},
    "random": {"criterion": "random"},
    "shuffled_magnitude": {"criterion": "shuffled_magnitude"},
    "fisher": {"criterion": "fisher"},
    "opd": {"criterion": "opd"},
    "snr": {"criterion": "snr"},
    "savage_dickey": {"criterion": "savage_dickey"},
    "retain": {"gate": "retain"},
    "propose": {"gate": "propose", "beta": 0.5},
    "previous": {"gate": "previous", "beta": 0.5},
    "layer": {"scope": "layer"},
    "unit": {"scope": "unit"},
    "regrow": {"regrow": True},
    "dropped": {"pruned_prior": "dropped"},
    "sequential": {"gate": "propose", "evaluation": "sequential", "beta": 0.5},
    "auto": {"sparsity": "auto", "gate": "propose"},
    "condition": {"update": "condition", "gate": "propose"},
    "judge": {"judge": "condition", "gate": "propose"},
    "auto, condition": {"sparsity": "auto", "gate": "propose", "judge": "condition"},
    "survivors": {"hidden": (1100,), "sparsity": 0.9, "scope": "layer"},
}


def digits(device="cpu"):
    data = bp.load_dataset("digits")
    x, y, test_x, test_y = data.train_x, data.train_y, data.test_x, data.test_y
    return bp.Dataset(x[:400], y[:400], test_x=test_x[:90], test_y=test_y[:90]).to(device)


def network(hidden=(20, 20), last=()):
    torch.manual_seed(0)
    return nn.Sequential(*bp.FCN((1, 8, 8), 10, hidden=hidden), *last)


def fitted(device, prior=NORMAL, net=None, hidden=(20, 20), epochs=3, **settings):
    model = bp.BayesianModule(net or network(hidden), prior, 400)
    options = {k: settings.pop(k) for k in ("state", "initial_weights") if k in settings}
    pruning = bp.Pruning(**ALWAYS | settings)
    options |= {"pruning": pruning, "device": device, "progress": False}
    return bp.fit(model, digits(), epochs=epochs, **options)


def assert_same(here, there, device, **tolerance):
    for name, weight in here.weights.items():
        assert there.weights[name].device.type == torch.device(device).type
        torch.testing.assert_close(there.weights[name].cpu(), weight, **tolerance)
    assert all(torch.equal(m.cpu(), here.masks[n]) for n, m in there.masks.items())
    decisions = [fit.history["decision"].iloc[-1] for fit in (here, there)]
    assert decisions[0] == decisions[1]


@pytest.mark.parametrize("name", FITS)
def test_a_fit(name, device):
    # Only the CPU multiplies by survivors, and Adam (steps of 0.001) enlarges rounding.
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if name == "survivors" else {}
    assert_same(fitted("cpu", **FITS[name]), fitted(device, **FITS[name]), device, **tolerance)


class Normalised(nn.Module):
    """BatchNorm, a buffer of the user's, and dropout that draws from the device's generator."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.BatchNorm1d(20), nn.Dropout())
        self.head = nn.Linear(20, 10)
        self.register_buffer("shift", torch.ones(20))

    def forward(self, x):
        return self.head(self.body(x).relu() + self.shift)


def test_batchnorm_and_dropout(device):
    net = Normalised()
    here, there = (fitted(d, net=net) for d in ("cpu", device))
    assert all(b.device.type == device for b in there.buffers.values())
    drawn = imitation.GENERATOR if device == imitation.NAME else None
    if drawn is not None:  # a real device draws other numbers than the CPU
        assert_same(here, there, device)
        for name, buffer in here.buffers.items():
            torch.testing.assert_close(there.buffers[name].cpu(), buffer)
    assert there.module(digits(device).test_x).device.type == device


@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 0)])
def test_a_fit_continues_on_another_device(first, second, device):
    devices = ["cpu", device]
    start = fitted(devices[first], epochs=2).state
    result = fitted(devices[second], epochs=3, state=start)
    assert_same(fitted("cpu"), result, devices[second])


def test_initial_weights_of_another_device(device):
    weights = {n: torch.full_like(q, 0.01) for n, q in network().named_parameters()}
    moved = {name: weight.to(device) for name, weight in weights.items()}
    for where, initial in (("cpu", moved), (device, weights), (device, moved)):
        result = fitted(where, initial_weights=initial, epochs=1)
        assert_same(fitted("cpu", initial_weights=weights, epochs=1), result, where)


def test_data_on_the_device_take_the_model_there(device):
    model = bp.BayesianModule(network(), p.normal(0.3), 400)
    fit = bp.fit(model, digits(device), epochs=1, progress=False)
    assert fit.weights["1.weight"].device.type == device
    assert next(model.parameters()).device.type == "cpu"


def test_a_loader(device):
    data = digits()
    loader = torch.utils.data.DataLoader([*zip(data.train_x, data.train_y, strict=True)], 64)
    model = bp.BayesianModule(network(), p.normal(0.3), 400)
    fits = [bp.fit(model, loader, epochs=2, device=d, progress=False) for d in ("cpu", device)]
    assert_same(*fits, device)


@pytest.mark.parametrize("noise", [0.1, dist.LogNormal(0.0, 1.0)], ids=["fixed", "learnt"])
def test_a_regression(noise, device):
    torch.manual_seed(0)
    x, y = torch.randn(100, 3), torch.randn(100, 2)
    model = bp.BayesianModule(nn.Linear(3, 2), p.normal(1.0), 100, bp.gaussian(noise))
    fits = [bp.fit(model, (x, y), epochs=2, device=d, progress=False) for d in ("cpu", device)]
    assert_same(*fits, device)


@pytest.mark.parametrize("likelihood", [bernoulli, poisson])
def test_other_likelihoods(likelihood, device):
    torch.manual_seed(0)
    x, y = torch.randn(100, 3), torch.randint(2, (100, 2)).float()
    model = bp.BayesianModule(nn.Linear(3, 2), p.layer_scale(), 100, likelihood)
    fits = [bp.fit(model, (x, y), epochs=2, device=d, progress=False) for d in ("cpu", device)]
    assert_same(*fits, device)


def regression(x, y=None):
    slope = pyro.sample("slope", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
    scale = pyro.sample("scale", dist.HalfNormal(x.new_ones(())))
    with pyro.plate("data", 100, subsample=x):
        return pyro.sample("obs", dist.Normal(x @ slope, scale), obs=y)


def test_a_pyro_model(device):
    x = torch.randn(100, 3)
    data, pruning = (x, x[:, 0] * 2), bp.Pruning(**ALWAYS)
    options = {"epochs": 3, "pruning": pruning, "progress": False}
    assert_same(*(bp.fit(regression, data, device=d, **options) for d in ("cpu", device)), device)


@pytest.mark.parametrize("prior", [NORMAL, p.laplace(0.1), p.layer_scale()], ids=str)
def test_pruner(prior, device):
    def weights(device):
        net, data = network().to(device), digits(device)
        pruner = bp.Pruner(net, prior, 400, epochs=2, pruning=bp.Pruning(**ALWAYS))
        options = [*net.parameters(), *pruner.hyperparameters()]
        optimizer = torch.optim.SGD(options, lr=0.1, momentum=0.9)
        pruner.attach(optimizer)
        for _ in range(2):
            for x, y in zip(data.train_x.split(50), data.train_y.split(50), strict=True):
                loss = pruner.loss(net(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            pruner.step(digits())  # data on the CPU
            state, masks = pruner.state_dict(), {n: m.cpu() for n, m in pruner.masks.items()}
            pruner.load_state_dict({**state, "masks": masks})
        return pruner.to_fit()

    # The initial values of scales are estimates; they are those of `fit` on every device.
    tolerance = {"atol": 5e-3, "rtol": 0} if prior == p.layer_scale() else {}
    assert_same(weights("cpu"), weights(device), device, **tolerance)


def test_a_loss_that_is_not_finite_stops_the_training(device):
    with pytest.raises(TrainingDiverged, match="the loss became nan in epoch 1, step 1") as stop:
        model = bp.BayesianModule(network(last=[NotFinite()]), NORMAL, 400)
        list(bp.train(model, digits(), epochs=1, device=device))
    assert stop.value.step == 1


class NotFinite(nn.Module):
    def forward(self, x):
        return x * torch.nan if self.training else x


def test_deterministic_algorithms(device):
    torch.use_deterministic_algorithms(True)
    try:
        result = fitted(device, prior=p.layer_scale(), scope="layer")
    finally:
        torch.use_deterministic_algorithms(False)
    assert_same(fitted("cpu", prior=p.layer_scale(), scope="layer"), result, device)
