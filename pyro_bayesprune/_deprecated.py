"""Old module paths and names: they work for one release and say where the new place is.

The two tables are all that the package knows of its former layout.
"""

import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import FunctionType, ModuleType
from typing import Any

import lazy_loader

PACKAGE = "pyro_bayesprune"
REMOVED_IN = "0.3"

# Old modules, and the modules that their names are in now.
MODULES: dict[str, tuple[str, ...]] = {
    "analysis": ("reporting.analysis", "experiments.folders"),
    "bench": ("benchmarks.training", "benchmarks.competitors"),
    "compaction": ("export.chain", "export.compaction"),
    "config": ("pruning.registry", "experiments.config", "experiments.errors"),
    "bench_deploy": ("benchmarks.deploy", "benchmarks.kernels", "benchmarks.variants"),
    "criteria": ("pruning.registry", "pruning.criteria"),
    "curvature": (
        "inference.curvature",
        "inference.jacobians",
        "inference.layers",
        "inference.blocks",
        "data.dataset",
    ),
    "doubt": ("diagnostics.calibration", "diagnostics.shift"),
    "draws": ("inference.draws", "inference.draw_predictions"),
    "elbo": ("training.elbo",),
    "evidence": ("inference.evidence", "inference.savage_dickey"),
    "experiment": (
        "pruning.registry",
        "pruning.replay",
        "experiments.running",
        "experiments.loading",
        "experiments.build",
        "_utils.provenance",
    ),
    "grids": ("experiments.grids", "experiments.designs"),
    "inference_data": (
        "diagnostics.conversion",
        "diagnostics.statistics",
        "diagnostics.thresholds",
        "diagnostics._arviz",
    ),
    "judgement": ("reporting.flags", "reporting.verdict", "reporting.checklist"),
    "masks": ("pruning.masks", "pruning.prunable"),
    "metrics": ("inference.metrics",),
    "model": ("models.module", "models.handler", "models.likelihoods", "models.sites"),
    "networks": ("models.networks",),
    "optimizer": ("training.optimizer",),
    "posterior": (
        "inference.log_joint",
        "inference.bayes_factor",
        "inference.prediction",
        "models.sites",
    ),
    "priors": ("models.priors", "training.prior_gradients"),
    "report": ("reporting.page", "reporting.methods", "experiments.loading"),
    "results": ("experiments.results", "experiments.statistics"),
    "runs": ("experiments.folders", "experiments.errors", "_utils.files"),
    "sequential": ("pruning.sequential",),
    "sparse": ("models.sparse",),
    "svi": ("training.trainer", "_utils.process", "_utils.random"),
    "trust_plots": ("plots.predictions",),
}
# Packages that bear the name of an old module, and where names that left it are now.
NAMES: dict[str, tuple[str, ...]] = {
    "data": ("data.dataset", "data.builtin", "data.files", "data.splitting", "_utils.random",
             "_utils.files"),
    "diagnostics": ("inference.samplers", "inference.nuts"),
    "export": ("models.plain",),
    "paper": ("paper.table", "paper.drawing"),
    "plots": ("plots.style",),
    "pruning": ("pruning.registry", "pruning.settings", "pruning.step", "pruning.record",
                "pruning.gates", "pruning.schedules"),
    "reporting": ("reporting.page", "reporting.methods", "experiments.loading"),
    "training": ("training.loop", "training.fitting", "training.state", "training.trainer"),
}  # fmt: skip
# Names that are called otherwise now: old name to (module, new name).
RENAMED = {
    ("analysis", "FILE"): ("experiments.folders", "ANALYSIS"),
    ("analysis", "load"): ("experiments.folders", "read_analysis"),
    ("report", "load"): ("experiments.loading", "load_runs"),
    ("reporting", "load"): ("experiments.loading", "load_runs"),
    ("experiment", "Result"): ("experiments.loading", "Run"),
}


def moved(old: str, name: str) -> Any:  # noqa: ANN401
    """Return what ``pyro_bayesprune.<old>.<name>`` is now.

    Warns:
        DeprecationWarning: with the new place.

    Raises:
        AttributeError: if there never was such a name.
    """
    targets = MODULES.get(old) or NAMES.get(old, ())
    renamed = RENAMED.get((old, name))
    for target, new in [renamed] if renamed else [(t, name) for t in targets]:
        module = import_module(f"{PACKAGE}.{target}")
        if _defines(module, new) and not name.startswith("__"):
            message = (
                f"{PACKAGE}.{old}.{name} is now {PACKAGE}.{target}.{new}; the old name works until "
                f"version {REMOVED_IN}"
            )
            warnings.warn(message, DeprecationWarning, stacklevel=3)
            value = getattr(module, new)
            return _functions(value) if target == "pruning.registry" else value
    raise AttributeError(f"module '{PACKAGE}.{old}' has no attribute {name!r}")


def _functions(names: Any) -> Any:  # noqa: ANN401
    """The old dictionaries of names had functions where the registry has their places."""
    if not (isinstance(names, dict) and all(isinstance(place, str) for place in names.values())):
        return names
    resolve = import_module(f"{PACKAGE}.pruning.registry").resolve
    return {name: resolve(names, name) for name in names}


def _defines(module: ModuleType, name: str) -> bool:
    """Whether a module has a name that it did not import from another module."""
    value = getattr(module, name, None)
    imported = isinstance(value, ModuleType)
    if isinstance(value, (FunctionType, type)):
        imported = value.__module__ != module.__name__
    return hasattr(module, name) and not imported


class _OldModule(ModuleType):
    """Stands for a module that is no more."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return moved(self.__name__.rpartition(".")[2], name)


class _Package(ModuleType):
    """The package, whose names an old module of the same name (``bp.priors``) does not replace."""

    def __setattr__(self, name: str, value: object) -> None:
        if not isinstance(value, _OldModule):  # importlib sets it after an import
            super().__setattr__(name, value)


class _Finder(MetaPathFinder, Loader):
    """Finds the old modules, after all other finders."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.rpartition(".")
        return ModuleSpec(fullname, self) if package == PACKAGE and name in MODULES else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _OldModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to run."""


def install() -> None:
    """Let ``import pyro_bayesprune.<old module>`` work."""
    sys.modules[PACKAGE].__class__ = _Package
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def attach(
    package: str, submodules: Sequence[str] = (), **names: list[str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return ``__getattr__``, ``__dir__`` and ``__all__`` of a package whose names load lazily.

    Args:
        package: its ``__name__``.
        submodules: modules that the package offers as they are.
        **names: by module of the package, the names that the package offers.
    """
    load, listed, every = lazy_loader.attach(package, submodules, names)

    def get(name: str) -> Any:  # noqa: ANN401
        try:
            return load(name)
        except AttributeError:
            return moved(package.removeprefix(f"{PACKAGE}."), name)

    return get, listed, every
