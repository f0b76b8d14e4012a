"""The package as a whole: what importing it loads, and which module may import which."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import pyro_bayesprune as bp

ROOT = Path(bp.__file__).parent
# The order of CONTRIBUTING.md: what stands on a line imports nothing from the lines below it.
ORDER = [
    {"priors", "networks", "data", "metrics"},
    {"model"},
    {"posterior"},
    {"curvature"},
    {"evidence"},
    {"criteria"},
    {"pruning"},
    {"training"},
    {"runs"},
    {"experiment"},
    {"grids"},
    {"results"},
    {"diagnostics", "plots", "export", "bench"},
    {"report"},
    {"cli"},
]
PUBLIC = """BayesFactor BayesianModule CNN Dataset FCN Fit LogJoint Pruning criteria fit
load_dataset log_joint plots priors prune_step pruned train""".split()


def imported(path):
    """Modules of this package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pyro_bayesprune"):
            _, _, module = node.module.partition(".")
            found |= {module} if module else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            found |= {parts[1] for parts in names if parts[0] == "pyro_bayesprune" and parts[1:]}
    return found


GRAPH = {path.stem: imported(path) for path in ROOT.glob("*.py") if path.stem != "__init__"}


def reached(module):
    """Everything that a module imports, at first or second hand."""
    found, left = set(), [module]
    while left:
        for name in GRAPH[left.pop()] - found:
            found.add(name)
            left.append(name)
    return found


def test_the_graph_is_read():
    """The following tests see the imports that are known to be there."""
    assert {"model", "posterior"} <= GRAPH["pruning"] and "metrics" in GRAPH["data"]
    assert "priors" in reached("training")


def test_no_module_imports_itself_by_way_of_others():
    list(TopologicalSorter(GRAPH).static_order())  # raises CycleError


@pytest.mark.parametrize("module", sorted(set(GRAPH) & set().union(*ORDER)))
def test_left_never_imports_right(module):
    place = next(i for i, group in enumerate(ORDER) if module in group)
    assert not reached(module) & set().union(*ORDER[place + 1 :])


def test_importing_the_package_loads_nothing_that_draws():
    code = (
        "import sys, pyro_bayesprune as bp; bp.fit; bp.Pruning; bp.load_dataset; bp.criteria;"
        "print(*[m for m in ('torch', 'arviz', 'matplotlib', 'seaborn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["torch"]


def test_public_names():
    for name in PUBLIC:
        assert getattr(bp, name) is not None
    assert set(PUBLIC) <= set(dir(bp))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = bp.nonsense


def test_public_functions_and_classes_are_documented():
    for name in PUBLIC:
        assert getattr(bp, name).__doc__, name
