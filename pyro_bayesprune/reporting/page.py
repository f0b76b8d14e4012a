"""One HTML page that answers: can I trust this pruned network?

The page is self-contained: figures are inline SVG, there is no script, and nothing is loaded from
anywhere. Every value goes through Jinja's autoescape.
"""

from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

from pyro_bayesprune._utils import files
from pyro_bayesprune.experiments.errors import RunError
from pyro_bayesprune.experiments.loading import Run, load_runs
from pyro_bayesprune.reporting import checklist, flags, verdict
from pyro_bayesprune.reporting.html import Picture
from pyro_bayesprune.reporting.methods import methods_text, provenance
from pyro_bayesprune.reporting.posterior_sections import arviz_panel, calibration_panel, prior_panel
from pyro_bayesprune.reporting.run_sections import (
    compression_panel,
    curves_panel,
    decisions_panel,
    layers_panel,
    results_panel,
)

PAPER = (
    "Mathew, S. and Rowe, D. B. (2024). Pruning a neural network using Bayesian inference. "
    "Manuscript TNNLS-2024-P-32985."
)


def report(runs: Iterable[str | Path], out: str | Path = "report.html") -> Path:
    """Write the report of runs as one self-contained HTML file; return its path.

    Args:
        runs: run folders, folders of run folders, or folders with a results.csv of `results`.
        out: the file.

    Raises:
        RunError: if there is no run, finished or not, in one of them.
    """
    found = [run for folder in runs for run in load_runs(folder)]
    if not found:
        raise RunError("a report needs at least one run folder")
    out = Path(out)
    files.write_atomically(out, render(found).encode())
    return out


def render(runs: Sequence[Run]) -> str:
    """Return the page of runs as text."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pyro_bayesprune", "reporting"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.tests["picture"] = lambda item: isinstance(item, Picture)
    found = flags.flags(runs)
    return environment.get_template("report.html.j2").render(
        title=_title(runs),
        question=f"Can {'this pruned network' if len(runs) == 1 else 'these networks'} be trusted?",
        runs=runs,
        verdict=verdict.verdict(runs, found),
        flags=found,
        provenance=provenance(runs),
        panels=[build(runs) for build in PANELS],
        failed=[run for run in runs if run.error],
        checklist=checklist.checklist(runs),
        methods=methods_text(runs),
        version=version("pyro-bayesprune"),
        paper=PAPER,
    )


def _title(runs: Sequence[Run]) -> str:
    return runs[0].title if len(runs) == 1 else f"{len(runs)} runs"


PANELS = (
    results_panel,
    curves_panel,
    decisions_panel,
    layers_panel,
    compression_panel,
    arviz_panel,
    calibration_panel,
    prior_panel,
)
