"""Bad input, drawn by hypothesis: it works with finite numbers, or is one clear error."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from random import Random
from typing import Any, get_args

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import pyro_bayesprune as bp
from attacks import attack
from attacks.drawn import (
    CLEAR,
    anything,
    clear,
    masks,
    numbers,
    settled,
    trainings,
    use_masks,
    use_training,
)
from pyro_bayesprune.cli.common import configuration
from pyro_bayesprune.experiments import build, folders
from pyro_bayesprune.experiments.config import Config, configure
from pyro_bayesprune.experiments.errors import RunError


@dataclass(frozen=True)
class Input:
    """What is drawn, and what is done with it; it returns what happened."""

    strategy: st.SearchStrategy
    use: Callable[[Any, Path], str]


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
