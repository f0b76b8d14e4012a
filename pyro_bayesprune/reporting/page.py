"""The HTML report, which helps to decide whether a pruned network can be trusted.

The page is self-contained: images are embedded, and there is no script and no external resource.
Jinja escapes all values.
"""

from collections.abc import Iterable, Sequence
from html import escape
from importlib.metadata import version
from pathlib import Path

from pyro_bayesprune._utils import files
from pyro_bayesprune.data.dataset import Dataset
from pyro_bayesprune.experiments.errors import RunError
from pyro_bayesprune.experiments.loading import Run, load_runs
from pyro_bayesprune.experiments.titles import distinguished
from pyro_bayesprune.inference.draws import Draws
from pyro_bayesprune.reporting import checklist, flags, summary, verdict
from pyro_bayesprune.reporting import posterior_sections as posterior
from pyro_bayesprune.reporting import run_sections as sections
from pyro_bayesprune.reporting.fits import run_of_fit
from pyro_bayesprune.reporting.flags import finished
from pyro_bayesprune.reporting.html import Cards, Group, Picture
from pyro_bayesprune.reporting.methods import methods_text, provenance
from pyro_bayesprune.training.fitting import Fit

PAPER = (
    "Mathew, S. and Rowe, D. B. (2024). Pruning a neural network using Bayesian inference. "
    "Manuscript TNNLS-2024-P-32985."
)
SHOWN = 10  # rows of a table above a fold
OF_ONE = (
    sections.decisions_panel, sections.layers_panel, posterior.calibration_panel,
    posterior.arviz_panel, posterior.prior_panel,
)  # fmt: skip
OF_SEVERAL = (sections.results_panel, sections.curves_panel, *OF_ONE)


class Page(type(Path())):  # type: ignore[misc]  # Path has no subclasses of its own until 3.12
    """The path of a report. A notebook displays the page."""

    def _repr_html_(self) -> str | None:
        if not self.is_file():
            return None
        page = escape(self.read_text(encoding="utf-8"))
        return f'<iframe srcdoc="{page}" title="report" width="100%" height="800"></iframe>'


def report(
    runs: str | Path | Iterable[str | Path] | Fit,
    *args: Dataset | str | Path,
    out: str | Path = "report.html",
    draws: Draws | None = None,
) -> Page:
    """Write the report of runs, or of a fit, as one self-contained HTML file.

    There are two forms, ``report(folders, out)`` and ``report(fit, data, out, draws=draws)``.

    Args:
        runs: run folders, folders of run folders, or folders with a results.csv; or a `Fit` of any
            Pyro model.
        *args: the data of a fit, and the output file.
        out: output file.
        draws: draws around a fit, see `samplers.posterior_draws`.

    Returns:
        The path of the file. A notebook displays the page.

    Raises:
        ValueError: for a fit without its data, or draws without a fit.
        RunError: if a folder contains no run, or if there is no folder.
    """
    data = next((arg for arg in args if isinstance(arg, Dataset)), None)
    out = next((arg for arg in args if not isinstance(arg, Dataset)), out)
    if isinstance(runs, Fit):
        if data is None:
            raise ValueError("the report of a fit needs its data: report(fit, data), a Dataset")
        loaded = [run_of_fit(runs, data, draws)]
    elif draws is not None or data is not None:
        raise ValueError("data and draws are for the report of a fit; runs have them on disk")
    elif isinstance(runs, Run):
        raise ValueError("the report of a run needs its folder: report([run.folder])")
    else:
        folders = [runs] if isinstance(runs, (str, Path)) else runs
        every = [run for folder in folders for run in load_runs(folder)]
        places = [run.folder.resolve() if run.folder else n for n, run in enumerate(every)]
        loaded = [*dict(zip(places, every, strict=True)).values()]  # each folder once
    if not loaded:
        raise RunError("a report needs at least one run folder")
    out = files.path_of(out)
    files.write_atomically(out, render(loaded).encode())
    return Page(out)


def render(runs: Sequence[Run]) -> str:
    """Return the HTML page of the report of runs."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pyro_bayesprune", "reporting"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.tests["picture"] = lambda item: isinstance(item, Picture)
    environment.tests["group"] = lambda item: isinstance(item, Group)
    environment.tests["cards"] = lambda item: isinstance(item, Cards)
    runs = distinguished(runs)
    all_flags = flags.flags(runs)
    several = len(finished(runs)) > 1
    first = summary.figure(runs)
    panels = [build(runs) for build in (OF_SEVERAL if several else OF_ONE)]
    panels = [panel for panel in panels if panel.id != first.id]
    further = sections.compression_panel(runs)
    return environment.get_template("report.html.j2").render(
        SHOWN=SHOWN,
        title=summary.title(runs),
        verdict=verdict.verdict(runs, all_flags),
        summary=summary.cards(runs),
        measures=[] if several else [sections.measures(run) for run in finished(runs)],
        first=first,
        flags=flags.grouped(all_flags),
        several=several,
        excluded=len(verdict.counting(runs, all_flags)) < len(all_flags),
        panels=panels + ([further] if further.content else []),
        failed=[run for run in runs if run.error],
        provenance=provenance(runs),
        checklist=checklist.checklist(runs),
        methods=methods_text(runs),
        version=version("pyro-bayesprune"),
        paper=PAPER,
    )
