"""The package as a whole: what importing it loads, its layers, its public names, its old ones."""

import importlib
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import pyro_bayesprune as bp
from pyro_bayesprune import _deprecated

ROOT = Path(bp.__file__).parent
PUBLIC = """BayesFactor BayesianModule CNN Config Dataset FCN Fit LogJoint Pruning Run categorical
configure criteria data diagnostics experiments export fit gaussian grid load_dataset load_histories
load_results load_run load_runs log_joint metrics models networks paper plots priors prune_step
pruned report reporting run train training""".split()
OLD = {  # what README, documentation and notebooks of version 0.1 used
    "analysis": "analyse", "bench": "training", "compaction": "chain", "config": "Config",
    "criteria": "CRITERIA", "curvature": "ggn_diagonal", "data": "random_stream",
    "diagnostics": "posterior_draws", "doubt": "reliability_table", "draws": "prior_predictive",
    "evidence": "log_evidence", "experiment": "load_run", "export": "bake", "grids": "controls",
    "inference_data": "to_arviz", "judgement": "flags", "masks": "propose_masks",
    "metrics": "accuracy", "model": "gaussian", "networks": "LeNet5", "paper": "LEVELS",
    "plots": "COLOURS", "posterior": "log_joint", "priors": "normal", "pruning": "SCHEDULES",
    "report": "load", "results": "summary", "runs": "write_atomically",
    "sequential": "estimate_sum", "training": "UNPRUNED", "trust_plots": "reliability",
}  # fmt: skip


def test_importing_the_package_loads_nothing_that_draws():
    code = (
        "import sys, pyro_bayesprune as bp; bp.fit; bp.Pruning; bp.load_dataset; bp.criteria;"
        "print(*[m for m in ('torch', 'arviz', 'matplotlib', 'seaborn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["torch"]


FIT = """
import sys, torch, pyro, pandas
before = set(sys.modules)
import pyro_bayesprune as bp
model = bp.BayesianModule(torch.nn.Linear(2, 2), bp.priors.normal(1.0), 4)
bp.fit(model, (torch.zeros(4, 2), torch.zeros(4).long()), epochs=1, progress=False)
tops = [{m.partition(".")[0] for m in modules} for modules in (set(sys.modules), before)]
print(*sorted(tops[0] - tops[1] - set(sys.stdlib_module_names)))
"""
OF_TORCH = {"charset_normalizer", "mpmath", "sympy", "triton"}  # it loads them when it trains


def test_a_fit_loads_few_packages_beyond_torch_pyro_and_pandas():
    done = subprocess.run([sys.executable, "-c", FIT], capture_output=True, text=True, check=True)
    loaded = {name for name in done.stdout.split() if not name.startswith("_")} - OF_TORCH
    assert loaded == {"lazy_loader", "pyro_bayesprune", "safetensors", "scipy"}


def test_the_help_of_a_command_loads_no_torch():
    code = (
        "import sys; from pyro_bayesprune.cli import app; app.parse('run', ['--seed', '1']);"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_packages_import_from_those_below_them_only():
    command = [Path(sys.executable).parent / "lint-imports", "--no-cache"]
    done = subprocess.run(command, cwd=ROOT.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_package_says_what_belongs_there():
    for path in ROOT.glob("*/__init__.py"):
        module = importlib.import_module(f"pyro_bayesprune.{path.parent.name}")
        assert module.__doc__, path


def test_public_names():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in PUBLIC:
            assert getattr(bp, name).__doc__, name
    assert set(PUBLIC) <= set(dir(bp))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = bp.nonsense


@pytest.mark.parametrize("module", OLD)
def test_an_old_name_works_and_says_where_it_is_now(module):
    name = OLD[module]
    with pytest.warns(DeprecationWarning, match=f"{module}.{name} is now pyro_bayesprune.") as log:
        result = getattr(importlib.import_module(f"pyro_bayesprune.{module}"), name)
    place, _, new = str(log[0].message).split(" is now ")[1].split(";")[0].rpartition(".")
    there = getattr(importlib.import_module(place), new)
    assert result is there or set(result) == set(there)  # dictionaries of names become functions
    assert Path(log[0].filename).name == Path(__file__).name


def test_old_names_by_attribute():
    with pytest.warns(DeprecationWarning, match="bp.Run|experiments.loading.Run"):
        assert bp.Result is bp.Run
    with pytest.warns(DeprecationWarning, match="inference.curvature"):
        assert callable(bp.curvature.ggn_diagonal)
    with pytest.raises(AttributeError, match="curvature' has no attribute 'nonsense'"):
        _ = bp.curvature.nonsense


def test_old_dictionaries_have_functions():
    with pytest.warns(DeprecationWarning, match="pruning.registry.CRITERIA"):
        from pyro_bayesprune.criteria import CRITERIA
    weights = {"w": bp.load_dataset("digits").train_x[:1]}
    assert CRITERIA["magnitude"](weights, weights)["w"].shape == weights["w"].shape


def test_modules_of_a_package_are_no_old_names():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from pyro_bayesprune.reporting import checklist, flags, verdict
    assert {checklist.__name__, flags.__name__, verdict.__name__}


def test_all_targets_of_old_names_are_there():
    for targets in _deprecated.MODULES.values():
        for target in targets:
            importlib.import_module(f"pyro_bayesprune.{target}")


def test_public_names_stay_where_an_old_module_of_their_name_was_imported():
    code = (
        "import warnings; warnings.simplefilter('ignore');"
        "import pyro_bayesprune.report, pyro_bayesprune.priors, pyro_bayesprune as bp;"
        "from pyro_bayesprune.report import report, load; warnings.simplefilter('error');"
        "print(bp.report is report, bp.priors.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "pyro_bayesprune.models.priors"]
