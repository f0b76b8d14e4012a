"""What tests of several packages share: models small enough to work out by hand, data, files."""

import importlib.util
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from safetensors.torch import save_file
from torch import nn

import pyro_bayesprune as bp
from pyro_bayesprune.models.likelihoods import gaussian
from pyro_bayesprune.pruning.masks import apply_masks
from pyro_bayesprune.pruning.record import PruneState
from pyro_bayesprune.pruning.step import prune_step


def regression(num_data, prior_scale=1.0, noise=1.0, dim=2):
    """A linear regression written by hand: y ~ N(x·w, noise²), w ~ N(0, prior_scale²)."""

    def model(x, y=None):
        zero = x.new_zeros(dim)
        w = pyro.sample("w", dist.Normal(zero, prior_scale).to_event(1))
        with pyro.plate("data", num_data, subsample=x):
            return pyro.sample("y", dist.Normal(x @ w, noise), obs=y)

    return model


def linear_data(n=12, dim=2, dtype=torch.float64):
    """Inputs, targets and the weights they come from."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, dim, generator=generator, dtype=dtype)
    truth = torch.linspace(-1, 2, dim, dtype=dtype)
    return x, x @ truth + 0.1 * torch.randn(n, generator=generator, dtype=dtype), truth


def class_data(n=48, features=6, classes=3, dtype=torch.float32):
    """Class labels that depend on the inputs, with a validation part."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(n + 12, features, generator=generator, dtype=dtype)
    y = x[:, :classes].argmax(1)
    return bp.Dataset(x[:n], y[:n], x[n:], y[n:])


def mlp(features=6, classes=3, hidden=8):
    """A small network; equal calls after equal seeds give equal weights."""
    return nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, classes))


def noisy_net(features=6, classes=3, hidden=8):
    """A small network with BatchNorm and dropout."""
    return nn.Sequential(
        nn.Linear(features, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(hidden, classes),
    )


def lifted(net, data, prior=None, **options):
    """The network as a Pyro model of the data set's size."""
    return bp.BayesianModule(net, prior or bp.priors.normal(0.3), data.num_train, **options)


def random_masks(weights, share=0.5, seed=3):
    """A random mask for every weight matrix (of vectors too, where there are no matrices)."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(value.shape, generator=generator) >= share
        for name, value in weights.items()
        if value.dim() >= 2
    }


def net_weights(net):
    """A copy of a module's parameters by name."""
    return {name: p.detach().clone() for name, p in net.named_parameters()}


def assert_same(first, second):
    """Two dictionaries of tensors are equal bit for bit."""
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def raw_tensors(n=60, channels=3, classes=3, seed=0, size=(4, 5)):
    """Raw images of classes in turn; every channel has a range of its own."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.tensor([256, 128, 32][:channels])[:, None, None]
    tensors = {}
    for part, count in (("train", n), ("test", n // 3)):
        noise = torch.rand(count, channels, *size, generator=generator)
        tensors[f"{part}_images"] = (noise * scale).to(torch.uint8)
        tensors[f"{part}_labels"] = torch.arange(count) % classes
    return tensors


def write(folder, **changes):
    """A data file whose tensors are changed; a change to None takes the tensor away."""
    tensors = {n: t for n, t in (raw_tensors() | changes).items() if t is not None}
    save_file(tensors, folder / "own.safetensors")
    return folder / "own.safetensors"


BAD = {
    "no_train_images": ({"train_images": None}, "'train_images' is missing"),
    "no_train_labels": ({"train_labels": None}, "'train_labels' is missing"),
    "no_test_images": ({"test_images": None}, "'test_images' is missing"),
    "no_test_labels": ({"test_labels": None}, "'test_labels' is missing"),
    "float_images": ({"train_images": torch.rand(60, 3, 4, 5)}, "train_images must be uint8"),
    "float_labels": ({"test_labels": torch.zeros(20)}, r"test_labels must be int64 \(20,\)"),
    "int32_labels": ({"train_labels": torch.zeros(60).int()}, "train_labels must be int64"),
    "grey_without_channel": (
        {"train_images": torch.zeros(60, 4, 5).byte()},
        r"train_images must be uint8 \(n, channels, height, width\), .* shape \(60, 4, 5\)",
    ),
    "no_examples": (
        {"test_images": torch.zeros(0, 3, 4, 5).byte(), "test_labels": torch.zeros(0).long()},
        "test_images must be",
    ),
    "zero_pixels": ({"train_images": torch.zeros(60, 3, 0, 5).byte()}, "train_images must be"),
    "fewer_labels": ({"train_labels": torch.zeros(59).long()}, r"train_labels must be .*\(60,\)"),
    "one_hot_labels": ({"train_labels": torch.zeros(60, 3).long()}, r"shape \(60, 3\)"),
    "other_test_shape": ({"test_images": torch.zeros(20, 3, 5, 5).byte()}, "differ in shape"),
    "negative_label": ({"train_labels": torch.arange(60) - 1}, "not be negative, got -1"),
    "negative_test_label": ({"test_labels": torch.arange(20) - 5}, "not be negative, got -5"),
    "huge_label": ({"train_labels": torch.full((60,), 10**15)}, "got 1000000000000000"),
    "one_class": (
        {"train_labels": torch.zeros(60).long(), "test_labels": torch.zeros(20).long()},
        "two or more .* got 0",
    ),
    "unknown_test_label": ({"test_labels": torch.full((20,), 3)}, r"classes 0 to 2, got 3"),
}


NOISE, PRIOR = 0.5, 1.5


def around(model, weights, masks=None):
    """What draws start from: all that a Fit and a Result have in common."""
    masks = masks or {}
    return SimpleNamespace(
        model=model, weights=apply_masks(weights, masks), masks=masks, buffers={}
    )


def linear_gaussian(n=30, dim=4, *, orthogonal=False, pruned=(1,)):
    """y ~ N(x·w, noise²), w ~ N(0, prior²): a network whose posterior is known."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(n, dim, generator=generator, dtype=torch.float64)
    if orthogonal:
        x = torch.linalg.qr(x).Q * math.sqrt(n)
    y = x @ torch.linspace(-1, 2, dim, dtype=torch.float64)[:, None]
    y = y + NOISE * torch.randn(n, 1, generator=generator, dtype=torch.float64)
    net = nn.Linear(dim, 1, bias=False).double()
    model = bp.BayesianModule(net, bp.priors.normal(PRIOR), n, gaussian(NOISE))
    mask = torch.ones(1, dim, dtype=torch.bool)
    mask[0, list(pruned)] = False
    mean, covariance = closed_form(x[:, mask[0]], y)
    weights = torch.zeros(1, dim, dtype=torch.float64)
    weights[mask] = mean
    return around(model, {"weight": weights}, {"weight": mask}), (x, y), mean, covariance


def closed_form(x, y):
    precision = x.mT @ x / NOISE**2 + torch.eye(x.shape[1], dtype=x.dtype) / PRIOR**2
    covariance = torch.linalg.inv(precision)
    return (covariance @ x.mT @ y / NOISE**2)[:, 0], covariance


def report_script(folder):
    """The script that makes a folder of reports again, as a module."""
    path = Path(bp.__file__).parents[1] / "reports" / folder / "make.py"
    spec = importlib.util.spec_from_file_location(f"reports_{folder}_make", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


class FakeMNIST:
    """Data and targets as torchvision's MNIST has them: tensors, without a channel."""

    calls: list = []

    def __init__(self, root, train, download):
        assert download
        type(self).calls.append(train)
        self.data = torch.arange(12 * 6, dtype=torch.uint8).reshape(12, 2, 3) + (
            0 if train else 100
        )
        self.targets = torch.arange(12) % 4


LOG_TWO_PI = math.log(2 * math.pi)
POINTS = torch.tensor([[1, 0], [0, 1], [1, 1]], dtype=torch.float64)
TARGETS = torch.tensor([1, 2, 3], dtype=torch.float64)
TIMES = ["seconds_training", "seconds_step"]


def normal_log_density(value, scale):
    """Sum of log N(value; 0, scale²), from the formula."""
    each = LOG_TWO_PI + 2 * math.log(scale)
    return -(value.square().sum() / scale**2 + value.numel() * each).item() / 2


def all_kept(weights):
    """Masks that keep everything."""
    return {n: torch.ones_like(w, dtype=torch.bool) for n, w in weights.items()}


def two_weights(log_bf=None):
    """The state of the model of two weights, of which the second is the smaller one."""
    w = {"w": torch.tensor([1.0, 0.5], dtype=torch.float64)}
    return PruneState(w, all_kept(w), log_bf)


def gated_step(gate, beta, state=None, **options):
    """A step that may prune one of the two weights."""
    options = {"sparsity": 0.5, "schedule": "constant", "per": "dataset"} | options
    pruning = bp.Pruning("magnitude", gate=gate, beta=beta, **options)
    return prune_step(regression(3), state or two_weights(), (POINTS, TARGETS), pruning)


def only(table, **values):
    """The one row of a table that has these values."""
    for name, value in values.items():
        table = table[table[name] == value]
    assert len(table) == 1
    return table.iloc[0]


def fitted(net, data, **options):
    """A fit of a network, of two epochs."""
    model = bp.BayesianModule(net, bp.priors.normal(0.3), data.num_train)
    return bp.fit(model, data, epochs=2, progress=False, **options)


def drawn(axes):
    """The lines of an axes by label, as (x, y) arrays."""
    return {line.get_label(): np.asarray(line.get_xydata()).T for line in axes.get_lines()}


def fit_once(model, data, **options):
    """A fit of one epoch."""
    options = {"epochs": 1, "progress": False} | options
    return bp.fit(model, data, **options)


def written(prior=None, name="w", size=12, extra=None):
    """A regression by hand; what is wrong with it is given."""

    def model(x, y=None):
        w = pyro.sample(name, prior or dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", size, subsample=x):
            if extra:
                extra(x, y)
            return pyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)

    return model
