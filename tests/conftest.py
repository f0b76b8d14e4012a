"""What all tests share: one thread, no display, checked trainings, and fixtures."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")

import shutil
from pathlib import Path

import invariants
import pandas as pd
import pyro
import pytest
import torch
from helpers import (
    around,
    class_data,
    lifted,
    linear_data,
    mlp,
    net_weights,
    random_masks,
    raw_tensors,
)
from helpers.exports import SHAPE
from helpers.made_up_runs import PAPER_METHODS, stored_history, table_runs
from helpers.runs import quiet_run, small_config

import pyro_bayesprune as bp
from pyro_bayesprune.data.builtin import DATA_VARIABLE
from pyro_bayesprune.data.files import write_file
from pyro_bayesprune.experiments.config import Config
from pyro_bayesprune.experiments.running import run
from pyro_bayesprune.inference import samplers

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _invariants():
    """Every training of every test keeps the invariants."""
    with pytest.MonkeyPatch.context() as patch:
        invariants.install(patch)
        yield


@pytest.fixture(autouse=True)
def _fixed_seed():
    """Tests that draw random numbers draw the same ones, in any order of the tests."""
    torch.manual_seed(0)
    pyro.clear_param_store()


@pytest.fixture
def digits_part():
    """Digits, every fourth training example: the real thing, four times as fast."""
    data = bp.load_dataset("digits")
    return bp.Dataset(
        data.train_x[::4],
        data.train_y[::4],
        data.validation_x,
        data.validation_y,
        data.test_x,
        data.test_y,
    )


@pytest.fixture
def double():
    """Float64 as the default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def linear():
    """Inputs and targets of a regression, and weights that are not at its maximum."""
    x, y, _ = linear_data(dim=3)
    return x, y, torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)


@pytest.fixture
def small_network():
    """A network with half of its weights pruned, and its data."""
    torch.manual_seed(0)
    data, net = class_data(), mlp()
    masks = random_masks(net_weights(net), 0.5)
    return around(lifted(net, data), net_weights(net), masks), data


@pytest.fixture(scope="module")
def data_file(tmp_path_factory):
    """The path of a small data file."""
    path = tmp_path_factory.mktemp("data") / "tiny.safetensors"
    write_file(path, raw_tensors(n=60))
    return str(path)


@pytest.fixture
def config(data_file):
    """Four epochs in a moment, of a network with a refusing gate and growing sparsity."""
    return Config(dataset=data_file, hidden=(8, 6), epochs=4, batch_size=16, learning_rate=0.01)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A function that returns the folder of an undisturbed run, made once and not to be changed."""
    out = tmp_path_factory.mktemp("whole")
    return lambda config: quiet_run(config, out).folder


@pytest.fixture
def finished(config, tmp_path, whole):
    """A finished run's folder to damage."""
    return Path(shutil.copytree(whole(config), tmp_path / config.id))


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """A finished run at half the weights."""
    return run(small_config(sparsity=0.5), out=tmp_path_factory.mktemp("runs"), progress=False)


@pytest.fixture(scope="module")
def inputs():
    """Inputs of the networks that are exported."""
    return torch.randn(32, *SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty folder to work in, and no data folder but its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def store(tmp_path):
    """A store of MNIST at 75% alone, two seeds of each method."""
    results = pd.concat(table_runs("mnist", method, 0.75, [0.9, 0.92]) for method in PAPER_METHODS)
    histories = pd.concat(stored_history(run) for _, run in results.iterrows())
    folder = tmp_path / "store"
    folder.mkdir()
    results.to_csv(folder / "results.csv", index=False)
    histories.to_csv(folder / "histories.csv.gz", index=False)
    return folder


@pytest.fixture(scope="module")
def drawn_fit():
    """A small fit with its draws by NUTS over the last layer."""
    from pyro_bayesprune.diagnostics import conversion

    torch.manual_seed(0)
    data = class_data()
    data = bp.Dataset(
        data.train_x, data.train_y, test_x=data.validation_x, test_y=data.validation_y
    )
    model = lifted(mlp(), data)
    fit = bp.fit(model, data, pruning=bp.Pruning(sparsity=0.5), epochs=3, progress=False)
    draws = samplers.posterior_draws(fit, data, "last_layer_nuts", draws=60, chains=2, warmup=40)
    idata = conversion.to_arviz(
        draws, data, history=fit.history, config={"dataset": "<data>"}, prior_draws=10
    )
    return fit, data, draws, idata


collect_ignore = ["end_to_end/checks"]  # cells that test_notebooks appends to the notebooks
