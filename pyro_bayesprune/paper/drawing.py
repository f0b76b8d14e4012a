"""The paper's figures and additional ones, drawn from a store of runs."""

from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from pyro_bayesprune import plots
from pyro_bayesprune._utils.files import path_of
from pyro_bayesprune.experiments.designs import PAPER
from pyro_bayesprune.experiments.results import GROUP, load_histories, load_results
from pyro_bayesprune.experiments.statistics import twins
from pyro_bayesprune.paper.table import DATASETS, DENSE, PRUNED, one_variant

LEVELS = PAPER["sparsity"]
BAYESIAN = ("bayes_random", "bayes_magnitude")
TEST_EXAMPLES = dict.fromkeys(DATASETS, 10_000)  # of the paper's data sets


def _accuracies(results: pd.DataFrame) -> Figure:
    num_test = TEST_EXAMPLES.get(results["dataset"].iloc[0])
    return plots.accuracy_against_compression(results, num_test=num_test)


# For each kind of figure: the methods whose runs it requires, and the function that draws it.
KINDS: dict[str, tuple[tuple[str, ...], Callable[[pd.DataFrame], Figure]]] = {
    "learning curves": (
        (*DENSE, *BAYESIAN),
        lambda h: plots.comparison(h, ("unpruned", *BAYESIAN)),
    ),
    "loss by level": (("bayes_unpruned",), plots.loss_by_level),  # and of one more method
    "accuracy against compression": (("unpruned",), _accuracies),
    "twins": ((*DENSE, *PRUNED), plots.twins),
}


class FigureSpec(NamedTuple):
    """The specification of a figure of one data set and network."""

    kind: str  # a key of `KINDS`
    dataset: str
    network: str
    levels: tuple[float, ...] = ()  # target sparsities of the runs that the figure requires
    method: str = ""  # empty if the kind determines the methods
    number: int | None = None  # in the paper; None for an additional figure

    @property
    def required(self) -> set[tuple[str, str, str, float]]:
        """The runs without which the figure cannot be drawn, as values of `GROUP`."""
        methods = (*KINDS[self.kind][0], self.method)
        runs = [(m, level) for m in methods if m in PRUNED for level in self.levels]
        runs += [(method, 0.0) for method in methods if method in DENSE]
        return {(self.dataset, self.network, *run) for run in runs}

    @property
    def variant(self) -> str:
        """The method or the target sparsity of the figure, as text; empty if it has neither."""
        return plots.label(self.method) or "".join(map(plots.percent, self.levels))

    @property
    def title(self) -> str:
        """The title above the figure."""
        parts = [f"{self.dataset}, {self.network.upper()}", self.variant, self.kind]
        title = ", ".join(part for part in parts if part)
        return f"Paper's figure {self.number}: {title}" if self.number else title

    @property
    def name(self) -> str:
        """The name of the figure's file, without suffix."""
        first, last = (f"figure-{self.number:02d}", "") if self.number else ("", self.kind)
        parts = [first, Path(self.dataset).stem, self.network, self.variant, last]
        return "-".join(p.replace("%", "").replace(" ", "-").lower() for p in parts if p)

    def draw(self, results: pd.DataFrame, histories: pd.DataFrame) -> Figure:
        """Draw the figure from all results and histories."""
        runs = results if self.kind == "accuracy against compression" else histories
        runs = runs[(runs["dataset"] == self.dataset) & (runs["network"] == self.network)]
        if self.method:
            runs = runs[runs["method"].isin([self.method, "bayes_unpruned"])]
        elif self.levels:
            runs = runs[runs["level"].isin([0.0, *self.levels])]
        figure = KINDS[self.kind][1](runs)
        figure.suptitle(self.title)
        return figure


def paper_figures() -> list[FigureSpec]:
    """Return the figures of the paper that show results, in the order of their numbers.

    The paper does not state the sparsity of figure 7. It is assumed to be that of figure 4.
    """
    with (resources.files("pyro_bayesprune.paper") / "figures.csv").open() as content:
        table = pd.read_csv(content).fillna({"method": ""})
    return [
        FigureSpec(kind, dataset, network, LEVELS if method else (level,), method, number)
        for number, dataset, network, kind, level, method in table.itertuples(index=False)
    ]


def additional_figures(results: pd.DataFrame) -> list[FigureSpec]:
    """Return figures that the paper does not have: of other data sets, and of other kinds."""
    pairs = sorted(set(zip(results["dataset"], results["network"], strict=True)))
    other = [pair for pair in pairs if pair[0] not in DATASETS]
    levels = tuple(sorted(float(level) for level in results["sparsity"].unique() if level))
    return [
        *(FigureSpec("learning curves", *p, (level,)) for p in other for level in levels),
        *(FigureSpec("loss by level", *p, levels, m) for p in other for m in BAYESIAN if levels),
        *(FigureSpec("accuracy against compression", *p) for p in pairs),
        *(FigureSpec("twins", *p, (level,)) for p in pairs for level in levels),
    ]


def figures(
    store: str | Path,
    out: str | Path = "figures",
    *,
    format: str = "png",  # noqa: A002
) -> tuple[list[Path], list[str]]:
    """Write all figures whose runs are in a store: those of the paper, and additional ones.

    Args:
        store: folder of run folders, or of results.csv and histories.csv.gz.
        out: output folder.
        format: format of the files: png, svg or pdf.

    Returns:
        The paths of the files, and one line for each figure of the paper whose runs are missing.

    Raises:
        RunError: if the store has no results.
        ValueError: if the selection of runs is not unique; see `one_variant`.
    """
    results = one_variant(load_results(store))
    results = results[results["sparsity"].map(lambda level: level != "auto")]
    results = results.astype({"sparsity": float})
    histories = load_histories(store)
    histories = histories[histories["id"].isin(results["id"])].astype({"level": float})
    histories = twins(histories, results)
    available = set(results[GROUP].itertuples(index=False, name=None))
    folder, paths, missing = path_of(out), [], []
    folder.mkdir(parents=True, exist_ok=True)
    for spec in [*paper_figures(), *additional_figures(results)]:
        absent = sorted(f"{m} {plots.percent(level)}" for *_, m, level in spec.required - available)
        if not absent:
            paths.append(folder / f"{spec.name}.{format}")
            spec.draw(results, histories).savefig(paths[-1], dpi=150)
        elif spec.number:
            missing.append(f"{spec.title}: no runs of {', '.join(absent)}")
    return paths, missing
