"""Bad input, drawn by hypothesis: it works with finite numbers, or is one clear error."""

import json
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from random import Random
from typing import Any, get_args

import pyro.distributions as dist
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

import pyro_bayesprune as bp
from attacks import attack
from pyro_bayesprune.cli.common import UserError, configuration
from pyro_bayesprune.experiments import build, folders
from pyro_bayesprune.experiments.config import Config, configure
from pyro_bayesprune.experiments.errors import RunError
from pyro_bayesprune.training.trainer import TrainingDiverged

CLEAR = (ValueError, TypeError, RunError, UserError, TrainingDiverged)
numbers = st.one_of(st.floats(), st.integers(), st.integers(-3, 3), st.floats(0, 1))
anything = st.one_of(
    numbers, st.none(), st.booleans(), st.text(max_size=8), st.lists(numbers, max_size=3)
)


@dataclass(frozen=True)
class Input:
    """What is drawn, and what is done with it; it returns what happened."""

    strategy: st.SearchStrategy
    use: Callable[[Any, Path], str]


def clear(error: Exception, limit: int = 2000) -> str:
    """An error that a user can read: it says something, on one screen."""
    assert 0 < len(str(error)) < limit, error
    return f"one error ({type(error).__name__})"


def finite(fit: Any) -> None:
    """The numbers of a fit are finite, but for what was never measured."""
    assert all(torch.isfinite(w).all() for w in fit.weights.values())
    for name in ("train_loss", "log_bf", "log_joint_before", "log_joint_after", "sparsity"):
        assert fit.history[name].map(math.isfinite).all(), (name, fit.history[name])


def settled(act: Callable[[], Any]) -> str:
    """Train: finite numbers, or one clear error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # an emptied layer, a training that stopped
        try:
            finite(act())
        except CLEAR as error:
            return clear(error)
    return "trained; finite"


# --- configurations


def likely(field: Any) -> st.SearchStrategy:
    """Values that a field may have, or nearly."""
    choices = [c for c in get_args(field.type) if isinstance(c, str)]
    if field.name in ("hidden", "channels"):
        return st.lists(st.integers(-1, 9), max_size=3).map(tuple)
    if choices and field.name != "sparsity":
        return st.sampled_from(choices)
    return st.booleans() if field.type is bool else numbers


def some(chosen: list) -> st.SearchStrategy:
    """Values for some fields, one in four of them anything at all."""
    return st.fixed_dictionaries({f.name: some_value(f) for f in chosen})


def some_value(field: Any) -> st.SearchStrategy:
    return st.integers(0, 3).flatmap(lambda number: likely(field) if number else anything)


named = [field for field in fields(Config) if field.name != "dataset"]
settings_ = st.lists(st.sampled_from(named), max_size=4, unique_by=lambda f: f.name).flatmap(some)


def use_settings(values: dict[str, Any], folder: Path) -> str:
    try:
        config = configure(**values)
    except CLEAR as error:
        return clear(error, 100_000)  # an unknown name is answered with all known ones
    again = Config.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config and again.id == config.id
    return "a configuration; the same after JSON"


def file_of(ending: str) -> Callable[[Any, Path], str]:
    def use(content: bytes, folder: Path) -> str:
        path = folder / f"settings.{ending}"
        path.write_bytes(content)
        try:
            configuration({"config": str(path)})
        except CLEAR as error:
            return clear(error, 100_000)
        return "a configuration"

    return use


def text_of(values: dict[str, Any]) -> bytes:
    lines = (f"{name}: {json.dumps(value)}" for name, value in values.items())
    return "\n".join(lines).encode()


near_yaml = settings_.map(text_of)
near_toml = settings_.map(lambda values: text_of(values).replace(b": ", b" = "))


# --- data files

dtypes = st.sampled_from(
    [torch.uint8] * 20 + [torch.int64, torch.float32, torch.bool, torch.float16]
)
sizes = st.sampled_from([1] * 4 + [4] * 6 + [5] * 6 + [0])


@st.composite
def data_files(draw: Any) -> dict[str, torch.Tensor]:
    """Tensors that are nearly a data file: odd sizes, dtypes, labels; one may be missing."""
    shape = [draw(sizes) for _ in range(draw(st.sampled_from([3] * 9 + [2])))]
    found, classes = {}, draw(st.sampled_from([1, 2, 2, 3, 3]))
    for part in ("train", "test"):
        n = draw(st.sampled_from([0, *range(5, 25)]))
        images = torch.randint(0, 256, (n, *shape)).to(draw(dtypes))
        labels = torch.randint(draw(st.sampled_from([0] * 9 + [-1])), classes, (n,))
        found |= {f"{part}_images": images, f"{part}_labels": labels}
    if draw(st.integers(0, 9)) == 0:
        found.pop(draw(st.sampled_from(sorted(found))))
    if draw(st.integers(0, 9)) == 0:
        found["train_labels"] = found.get("train_labels", torch.ones(3)).float()
    return found


def use_data_file(tensors: dict[str, torch.Tensor], folder: Path) -> str:
    path = folder / "own.safetensors"
    save_file(tensors, path)
    try:
        data = bp.load_dataset(str(path))
    except CLEAR as error:
        assert str(path) in str(error)
        return clear(error)
    assert data.train_x.isfinite().all() and data.test_x.isfinite().all()
    for network in ("fcn", "cnn"):
        config = Config(dataset=str(path), network=network, hidden=(3,), channels=(1, 1), epochs=1)
        settled(lambda config=config: last_of(config, data))
    return "read; finite"


def last_of(config: Config, data: bp.Dataset) -> bp.Fit:
    """A configuration's fit, without a folder."""
    model = build.build_model(config, data.shape, data.num_classes, data.num_train)
    return bp.fit(model, data, epochs=config.epochs, batch_size=config.batch_size, progress=False)


# --- tensors, models, pruning

odd = st.sampled_from([0.0, 1.0, -1.0, 1e-40, 1e20, 3e38, math.nan, math.inf, -math.inf])
scales = st.sampled_from(
    [1.0, 1.0, 1.0, 0.3, 0.3, 0.3, 1e-3, 1e3, 1e-30, 1e30, 0.0, -1.0, math.nan, math.inf]
)


@st.composite
def trainings(draw: Any) -> dict[str, Any]:
    """A training with something odd in its data, prior, network or pruning."""
    n, features, classes = draw(st.integers(1, 9)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    x = torch.randn(n, features) * draw(st.sampled_from([1.0, 1.0, 0.0, 1e-30, 1e18, 1e30]))
    if draw(st.integers(0, 5)) == 0:
        x[0, 0] = draw(odd)
    y = torch.randint(0, classes, (n,))
    y = y.to(draw(st.sampled_from([torch.int64] * 20 + [torch.float32, torch.int32, torch.uint8])))
    return {
        "data": (x, y),
        "net": (
            features + (draw(st.integers(0, 9)) == 0),
            draw(st.sampled_from([*range(1, 9), 0])),
            classes,
        ),
        "scale": draw(scales),
        "by_element": draw(st.booleans()),
        "pruning": {
            "criterion": draw(st.sampled_from(["magnitude", "random", "fisher", "opd"])),
            "sparsity": draw(st.sampled_from([0.0, 0.5, 0.5, 0.9, 0.9, 0.99, 0.99, 1.0, math.nan])),
            "gate": draw(st.sampled_from(["propose", "previous", "always"])),
            "beta": draw(st.sampled_from([0.0, 0.5, 0.95, 0.95, 1.0, 1e300, -1.0, math.inf])),
            "schedule": draw(st.sampled_from(["constant", "cubic", "one_shot"])),
            "scope": draw(st.sampled_from(["layer", "global", "unit"])),
            "regrow": draw(st.booleans()),
        },
        "objective": draw(st.sampled_from(["map", "mle"])),
        "batch_size": draw(st.sampled_from([1, 3, 64, 10**12])),
    }


def use_training(given_: dict[str, Any], folder: Path) -> str:
    features, hidden, classes = given_["net"]
    scale, (x, y) = given_["scale"], given_["data"]

    def by_element(name: str, shape: torch.Size) -> Any:
        return dist.Normal(0.0, torch.full(shape, scale)).to_event(len(shape))

    def act() -> bp.Fit:
        net = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, classes))
        prior = by_element if given_["by_element"] else bp.priors.normal(scale)
        model = bp.BayesianModule(net, prior, len(x))
        options = {name: given_[name] for name in ("objective", "batch_size")}
        return bp.fit(model, (x, y), pruning=bp.Pruning(**given_["pruning"]), epochs=2,
                      progress=False, **options)  # fmt: skip

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Initializing zero-element")
        return settled(act)


masks = st.dictionaries(
    st.sampled_from(["0.weight", "0.bias", "1.weight"]),
    st.tuples(
        st.sampled_from([[3, 2]] * 4 + [[3], [2, 3], [3, 2, 1], [], [0]]),
        st.sampled_from([torch.bool] * 4 + [torch.uint8, torch.float32]),
    ),
    max_size=2,
)


def use_masks(given_: dict[str, Any], folder: Path) -> str:
    made = {name: torch.ones(shape).to(dtype) for name, (shape, dtype) in given_.items()}
    model = bp.BayesianModule(nn.Sequential(nn.Linear(2, 3)), bp.priors.normal(1.0), 4)
    weights = {n.removeprefix("net."): p.detach() for n, p in model.named_parameters()}
    data = torch.randn(4, 2), torch.tensor([0, 1, 2, 0])
    try:
        joint = bp.log_joint(model, weights, data, made)
    except CLEAR as error:
        return clear(error)
    assert math.isfinite(joint.total)
    return "a finite density"


# --- run folders

JUNK = st.sampled_from(["config.json", "history.csv", "result.json", "weights.safetensors"])
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=5),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=5), v, max_size=3),
    max_leaves=6,
)  # fmt: skip
run_folders = st.dictionaries(
    JUNK, st.binary(max_size=60) | values.map(lambda v: json.dumps(v).encode())
)


def use_folder(files: dict[str, bytes], folder: Path) -> str:
    place = folder / "run"
    place.mkdir(exist_ok=True)
    for path in place.iterdir():
        path.unlink()
    for name, content in files.items():
        (place / name).write_bytes(content)
    try:
        bp.load_run(place)
    except RunError as error:
        assert str(place) in str(error)
        return clear(error)
    raise AssertionError("rubbish was read as a run")


def changed_results() -> st.SearchStrategy:
    """Values to put into result.json, whose checksum is then made right."""
    names = ["shape", "num_classes", "num_train", "machine", "test_accuracy", "layer_sparsity"]
    return st.dictionaries(st.sampled_from(names), values, min_size=1, max_size=2)


def use_result(changes: dict[str, Any], folder: Path) -> str:
    from attacks import CONFIG, run

    place = run(CONFIG, folder)
    content = (place / "result.json").read_bytes()
    try:
        folders.write_record(place / "result.json", folders.read_result(place) | changes)
        bp.load_run(place)
    except RunError as error:
        assert "result.json" in str(error)
        return clear(error)
    finally:
        (place / "result.json").write_bytes(content)
    return "read"


INPUTS: dict[str, tuple[Input, int, int]] = {
    "settings of a configuration": (Input(settings_, use_settings), 600, 40),
    "configuration files: bytes as YAML": (Input(st.binary(max_size=80), file_of("yaml")), 200, 15),
    "configuration files: text as YAML": (
        Input(st.text(max_size=60).map(str.encode), file_of("yaml")), 200, 15),
    "configuration files: settings as YAML": (Input(near_yaml, file_of("yaml")), 200, 15),
    "configuration files: settings as TOML": (Input(near_toml, file_of("toml")), 200, 15),
    "data files": (Input(data_files(), use_data_file), 80, 8),
    "trainings: data, networks, priors, pruning": (Input(trainings(), use_training), 120, 12),
    "masks": (Input(masks, use_masks), 150, 12),
    "run folders of rubbish": (Input(run_folders, use_folder), 200, 12),
    "run folders with another result, its checksum right": (
        Input(changed_results(), use_result), 60, 4),
}  # fmt: skip


def tried(input_: Input) -> Callable[[int, Random, Path], Iterator[str]]:
    def attempt(tries: int, rng: Random, folder: Path) -> Iterator[str]:
        seen: list[str] = []
        quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
        profile = settings(max_examples=tries, deadline=None, derandomize=True, database=None,
                           phases=[Phase.generate], suppress_health_check=quiet)  # fmt: skip

        @profile
        @given(input_.strategy)
        def each(value: Any) -> None:
            seen.append(input_.use(value, folder))

        each()
        yield from seen

    return attempt


for _name, (_input, _full, _quick) in INPUTS.items():
    attack("input", _name, full=_full, quick=_quick)(tried(_input))
