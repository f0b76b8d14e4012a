"""The user's data and files, and mistakes that are answered in one sentence."""

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pyro
import pyro.distributions as dist
import torch
from helpers import mlp, raw_tensors
from safetensors.torch import save_file
from torch import Tensor, nn

import pyro_bayesprune as bp
from attacks.situations import classes, fitted, refusal, situation
from pyro_bayesprune.data.files import read_file, write_file
from pyro_bayesprune.data.splitting import held_out
from pyro_bayesprune.experiments.errors import RunError


def _changed(name: str, change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    tensors = raw_tensors()
    return tensors | {name: change(tensors[name].clone())}


def _pixel(images: Tensor) -> Tensor:
    images[0, 0, 0, 0] += 1
    return images


@situation(
    "a finished run, and other data under the same path",
    "one sentence; the finished run is left as it is",
    {
        "one pixel": lambda: _changed("train_images", _pixel),
        "one test pixel": lambda: _changed("test_images", _pixel),
        "labels": lambda: _changed("train_labels", lambda y: y.flip(0)),
        "more examples": lambda: raw_tensors(n=90),
    },
)
def other_data(make: Callable[[], dict[str, Tensor]]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "own.safetensors"
        write_file(path, raw_tensors())
        config = bp.Config(dataset=str(path), hidden=(4,), epochs=1)
        first = bp.run(config, out=folder, progress=False)
        assert bp.run(config, out=folder, progress=False).accuracy == first.accuracy
        write_file(path, make())
        refusal("data", lambda: bp.run(config, out=folder, progress=False), RunError)


@situation(
    "a path that begins with ~",
    "the home folder is read and written",
    {
        "a data file": lambda: bp.load_dataset("~/own.safetensors"),
        "a data folder": lambda: bp.load_dataset("mnist", data_dir="~"),
        "the data folder of the environment": lambda: _by_variable("~"),
        "run folders": lambda: bp.run(
            bp.Config(dataset="~/own.safetensors", hidden=(4,), epochs=1),
            out="~/runs",
            progress=False,
        ),
    },
)
def home(act: Callable[[], object]) -> None:
    before = os.environ.get("HOME", "")
    with TemporaryDirectory() as folder:
        os.environ["HOME"] = folder
        try:
            write_file(Path(folder) / "own.safetensors", raw_tensors())
            write_file(Path(folder) / "mnist.safetensors", raw_tensors())
            act()
        finally:
            os.environ["HOME"] = before
        assert not Path("~").exists()


def _by_variable(folder: str) -> object:
    from pyro_bayesprune.data.builtin import DATA_VARIABLE

    before = os.environ.get(DATA_VARIABLE)
    os.environ[DATA_VARIABLE] = folder
    try:
        return bp.load_dataset("mnist")
    finally:
        os.environ.pop(DATA_VARIABLE)
        if before is not None:
            os.environ[DATA_VARIABLE] = before


DTYPES = (
    "bfloat16",
    "float16",
    "float64",
    "float8_e4m3fn",
    "float8_e5m2",
    "uint16",
    "uint32",
    "uint64",
    "int8",
    "bool",
    "complex64",
)


@situation(
    "images of another dtype in a safetensors file",
    "refused by the file's name",
    {dtype: dtype for dtype in DTYPES},
)
def dtypes(dtype: str) -> None:
    tensors = raw_tensors()
    tensors["train_images"] = tensors["train_images"].to(getattr(torch, dtype))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "own.safetensors"
        save_file(tensors, path)
        refusal("own.safetensors", lambda: read_file(path))


def _shared() -> dict[str, Tensor]:
    images = raw_tensors(n=90)["train_images"]
    tensors = raw_tensors()
    return tensors | {"train_images": images[:60], "test_images": images[60:80]}


@situation(
    "views of tensors that are written",
    "written with their values",
    {
        "every second example": lambda: (
            raw_tensors()
            | {n: t[::2] for n, t in raw_tensors(n=120).items() if n.startswith("train")}
        ),
        "transposed images": lambda: (
            raw_tensors() | {n: t.mT for n, t in raw_tensors().items() if n.endswith("images")}
        ),
        "expanded images": lambda: (
            raw_tensors() | {"train_images": raw_tensors()["train_images"][:1].expand(60, 3, 4, 5)}
        ),
        "parts of one storage": _shared,
    },
)
def views(make: Callable[[], dict[str, Tensor]]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "own.safetensors"
        write_file(path, tensors := make())
        back = read_file(path)
    assert all(torch.equal(back[name], value) for name, value in tensors.items())


@situation(
    "a held-out part of small classes",
    "about the share that was asked for; no class is unknown to training",
    {
        "100 classes of 4, 0.1": (torch.arange(400) % 100, 0.1),
        "50 of 2, 0.25": (torch.arange(100) % 50, 0.25),
        "30 of 9, 0.05": (torch.arange(270) % 30, 0.05),
        "small beside large": (torch.cat([torch.arange(90) % 30, torch.full((1000,), 30)]), 0.1),
    },
)
def small_classes(member: tuple[Tensor, float]) -> None:
    labels, share = member
    marked = held_out(labels, share, 0)
    assert abs(marked.double().mean() - share) <= 0.1 * share, marked.double().mean()
    assert set(labels[~marked].tolist()) == set(labels.tolist())


def observed(likelihood: Callable[[Tensor], dist.TorchDistribution]) -> bp.BayesianModule:
    return bp.BayesianModule(nn.Linear(5, 1), bp.priors.normal(1.0), 64, likelihood)


def _mixture(name: str, shape: torch.Size) -> dist.TorchDistribution:
    spike = dist.Normal(torch.zeros(*shape, 2), torch.tensor([0.01, 1.0]))
    parts = dist.Categorical(torch.ones(*shape, 2))
    return dist.MixtureSameFamily(parts, spike).to_event(len(shape))


def _lifted(prior: object = None, net: nn.Module | None = None) -> bp.BayesianModule:
    return bp.BayesianModule(net or mlp(5), prior or bp.priors.normal(1.0), 64)


def _loader() -> torch.utils.data.DataLoader:
    rows = zip(*classes(), strict=True)
    return torch.utils.data.DataLoader([{"x": x, "label": y} for x, y in rows], batch_size=8)


@situation(
    "mistakes in Python",
    "one sentence that names the thing, what was expected and what came",
    {
        "priors.normal not called": ("call it first", lambda: _lifted(bp.priors.normal)),
        "a torch distribution as prior": (
            "must be a function",
            lambda: _lifted(torch.distributions.Normal(0.0, 1.0)),
        ),
        "a mixture prior": (
            "support",
            lambda: bp.fit(_lifted(_mixture), classes(), progress=False),
        ),
        "a plain network": (
            "BayesianModule(net",
            lambda: bp.fit(mlp(5), classes(), progress=False),
        ),
        "a tuple of outputs": ("must return one tensor", lambda: fitted(nn.LSTM(5, 3), classes())),
        "integer labels for Bernoulli": (
            "labels.float()",
            lambda: bp.fit(
                observed(lambda o: dist.Bernoulli(logits=o[:, 0])),
                (classes()[0], torch.arange(64) % 2),
                progress=False,
            ),
        ),
        "pruning='magnitude'": (
            "Pruning('magnitude')",
            lambda: fitted(mlp(5), classes(), pruning="magnitude"),
        ),
        "run('mnist')": ("Config(dataset='mnist')", lambda: bp.run("mnist")),
        "a DataLoader of dictionaries": (
            "unpack=",
            lambda: bp.fit(_lifted(), _loader(), progress=False),
        ),
    },
)
def mistakes(member: tuple[str, Callable[[], object]]) -> None:
    words, act = member
    refusal(words, act)


@situation(
    "unknown keyword arguments",
    "the name that was probably meant",
    {
        "Pruning(sparcity)": ("'sparsity'", lambda: bp.Pruning(sparcity=0.5)),
        "Config(epoch)": ("'epochs'", lambda: bp.Config(epoch=3)),
        "fit(batchsize)": ("'batch_size'", lambda: bp.fit(_lifted(), classes(), batchsize=3)),
        "train(optimi)": ("'optim'", lambda: bp.train(_lifted(), classes(), optimi=3)),
    },
)
def unknown(member: tuple[str, Callable[[], object]]) -> None:
    words, act = member
    refusal(f"did you mean {words}?", act, TypeError)


@situation(
    "a cell of a notebook that is run twice",
    "the same numbers",
    {
        "fit": lambda model, data: bp.fit(model, data, epochs=2, progress=False),
        "fit of a pair in place": lambda model, data: bp.fit(
            model, (data[0], data[1]), epochs=2, progress=False
        ),
        "train": lambda model, data: list(bp.train(model, data, epochs=2))[-1][0],
        "after pyro.clear_param_store": lambda model, data: (
            pyro.clear_param_store(),
            bp.fit(model, data, epochs=2, progress=False),
        )[1],
    },
)
def twice(cell: Callable) -> None:
    model, data = _lifted(), classes()
    first, second = cell(model, data), cell(model, data)
    assert all(torch.equal(w, second.weights[n]) for n, w in first.weights.items())
