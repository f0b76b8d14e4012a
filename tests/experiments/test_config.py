"""Configurations: presets, methods, ids, and invalid values."""

import dataclasses
import hashlib
import json
import subprocess
import sys
from dataclasses import fields
from typing import get_args

import pytest

from pyro_bayesprune.experiments.build import PRUNING_FIELDS
from pyro_bayesprune.experiments.config import ADDED, Config, configure
from pyro_bayesprune.pruning.registry import (
    CRITERIA,
    METHODS,
    NETWORKS,
    PRESETS,
    PRIORS,
    SCHEDULES,
)
from pyro_bayesprune.pruning.settings import Pruning

BASE = {  # settings without which a field must have its default
    "rounds": {"restart": "rewind"},
    "rewind_epoch": {"restart": "rewind"},
    "noise": {"likelihood": "gaussian"},
}
OTHER = {  # a valid value of each field that is not the default
    "target_column": "label",
    "noise": 0.5,
    "dataset": "mnist",
    "validation": 0.2,
    "hidden": (7,),
    "channels": (3, 4),
    "prior_scale": 0.5,
    "prior_df": 4.0,
    "temperature": 0.5,
    "sparsity": 0.25,
    "beta": 0.5,
    "alpha": 0.05,
    "learning_rate": 0.01,
}


def choices(name):
    """The names that a field of Config may have."""
    return list(get_args(Config.__dataclass_fields__[name].type))


def another(field):
    """A value of a field that is not its default."""
    if field.name in OTHER:
        return OTHER[field.name]
    if get_args(field.type):
        return choices(field.name)[1 if field.default == choices(field.name)[0] else 0]
    return not field.default if field.type is bool else field.default + 1


# --- presets and methods


def test_defaults_are_what_is_recommended():
    config = configure()
    assert (config.prior, config.prior_scale, config.objective) == ("normal_per_datum", 0.3, "map")
    assert (config.criterion, config.gate) == ("magnitude", "retain")
    assert (config.schedule, config.scope, config.regrow) == ("cubic", "global", False)
    assert config.method == "default" and config.title == "digits fcn default 0.9 #0"
    pruning = Pruning()
    for name in PRUNING_FIELDS:
        assert getattr(pruning, name) == getattr(config, name)
    assert (config.epochs, config.batch_size, config.learning_rate) == (25, 64, 1e-3)


def test_paper_preset_is_what_the_paper_did():
    config = configure("paper")
    assert (config.hidden, config.channels) == ((1024, 1024, 1024), (32, 64))
    assert (config.validation, config.epochs, config.beta, config.prior_scale) == (0, 25, 0.9, 1)
    assert (config.schedule, config.regrow, config.gate) == ("constant", False, "previous")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("preset", PRESETS)
def test_methods_expand_before_hashing(preset, method):
    by_name = configure(preset, method, seed=3)
    by_hand = Config.from_dict(PRESETS[preset] | METHODS[method] | {"seed": 3})
    assert by_name == by_hand and by_name.id == by_hand.id
    assert by_name.method == method
    assert "method" not in by_name.to_dict() and "preset" not in by_name.to_dict()


@pytest.mark.parametrize(
    "method, setting", [(method, name) for method in METHODS for name in METHODS[method]]
)
def test_a_method_beside_what_it_expands_to_is_an_error(method, setting):
    value = METHODS[method][setting]  # even where both say the same
    with pytest.raises(ValueError, match=f"'{method}' decides {setting}: .* not both"):
        configure("default", method, **{setting: value})


def test_other_combinations_are_custom():
    assert Config().method == "custom"
    assert configure(objective="mle", gate="always", sparsity=0.0).method == "unpruned"


@pytest.mark.parametrize("bad", ["fisherman", "", ["paper"], None, 3])
def test_unknown_presets_and_methods(bad):
    with pytest.raises(ValueError, match="unknown preset .* expected one of default, paper"):
        configure(bad)
    if bad is not None:
        with pytest.raises(ValueError, match="unknown method .* expected one of unpruned, "):
            configure("default", bad)


# --- ids


def test_ids_are_the_same_in_every_process():
    values = Config(seed=3, hidden=(5, 6)).to_dict()
    older = {name: value for name, value in values.items() if name not in ADDED}
    settings = json.dumps(older, sort_keys=True)
    canonical = settings.replace(", ", ",").replace(": ", ":")
    expected = hashlib.sha256(canonical.encode()).hexdigest()[:16]
    code = "import pyro_bayesprune as bp; print(bp.Config(seed=3, hidden=(5, 6)).id)"
    for seed in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == expected


@pytest.mark.parametrize("field", fields(Config), ids=lambda field: field.name)
def test_every_field_changes_the_id_and_survives_json(field):
    base = Config(**BASE.get(field.name, {}))
    changed = dataclasses.replace(base, **{field.name: another(field)})
    assert changed != base and changed.id != base.id
    read = Config.from_dict(json.loads(json.dumps(changed.to_dict())))
    assert read == changed and read.id == changed.id


def test_equal_configurations_have_equal_ids():
    assert (
        Config(prior_scale=1, sparsity=0, beta=1).id
        == Config(prior_scale=1.0, sparsity=0.0, beta=1.0).id
    )
    assert Config(sparsity=-0.0).id == Config(sparsity=0.0).id
    assert Config.from_dict({"hidden": [5]}).id == Config(hidden=(5,)).id


def test_a_configuration_does_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().seed = 1


# --- values out of range


BAD = [
    *[(name, value) for name in ("validation", "sparsity") for value in (-0.1, 1.0, 2)],
    *[(name, value) for name in ("prior_scale", "prior_df", "temperature") for value in (0, -1.0)],
    *[(name, value) for name in ("epochs", "batch_size") for value in (0, -1, 1.5, True, "3")],
    *[("learning_rate", value) for value in (0.0, -1e-3, "fast", None, [1])],
    *[("alpha", value) for value in (0.0, 1.0, -1)],
    *[("hidden", value) for value in (5, (0,), (5, -1), (1.5,), "55", (True,), None, {"a": 1})],
    *[("channels", value) for value in ((), (3,), (3, 4, 5), (0, 1))],
    *[("beta", value) for value in (-0.1, float("nan"), float("inf"), True, 10**400)],
    *[("seed", value) for value in ("a", 0.5, None)],
    *[("regrow", value) for value in ("yes", 1, None)],
    *[("dataset", value) for value in (3, None, ["digits"])],
    *[(field.name, "nonsense") for field in fields(Config) if get_args(field.type)],
    *[("network", value) for value in (["fcn"], 3, None)],
    ("sparsity", [0.5]),
]


@pytest.mark.parametrize("name, value", BAD)
def test_a_value_out_of_range_is_an_error_that_names_it(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be .*, got ") as caught:
        Config.from_dict({name: value})
    assert "\n" not in str(caught.value)


def test_unknown_settings_are_listed():
    with pytest.raises(ValueError, match=r"unknown settings \['epoch', 'layers'\]; there are"):
        configure(layers=3, epoch=2)
    with pytest.raises(ValueError, match="unknown settings"):
        Config.from_dict({1: 2, "a": 3})


# --- contract: names and what they stand for


@pytest.mark.parametrize(
    "field, registered",
    [
        ("network", NETWORKS),
        ("prior", PRIORS),
        ("criterion", CRITERIA),
        ("schedule", SCHEDULES),
    ],
)
def test_choices_are_what_is_registered(field, registered):
    assert set(choices(field)) == set(registered)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"rounds": 0}, "rounds must be 1"),
        ({"rounds": 2}, "with a restart"),
        ({"rounds": 2, "restart": "rewind", "sparsity": "auto"}, "sparsity auto"),
        ({"rewind_epoch": 1}, "0 unless restart is rewind"),
        ({"rewind_epoch": 26, "restart": "rewind"}, "from 0 to epochs"),
    ],
)
def test_impossible_rounds_are_an_error(settings, message):
    with pytest.raises(ValueError, match=message):
        Config(**settings)


def test_the_likelihood_is_new_and_leaves_the_ids_of_older_runs():
    values = {n: v for n, v in Config().to_dict().items() if n not in ("likelihood", "noise")}
    assert Config.from_dict(values).id == Config().id
    assert Config(likelihood="gaussian").id != Config().id
    assert Config(likelihood="gaussian", noise=0.5).id != Config(likelihood="gaussian").id
    with pytest.raises(ValueError, match="noise is for the likelihood gaussian"):
        Config(noise=0.5)
    with pytest.raises(ValueError, match="noise must be positive"):
        Config(likelihood="gaussian", noise=0.0)
