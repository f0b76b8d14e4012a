"""The paper's figures, made from a store of runs, and ours beside them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from pyro_bayesprune import plots
from pyro_bayesprune.experiments.results import GROUP, load_histories, load_results
from pyro_bayesprune.experiments.statistics import twins
from pyro_bayesprune.paper.table import DATASETS, DENSE, NETWORKS, PRUNED, one_variant

LEVELS = (0.25, 0.5, 0.75, 0.9, 0.99)
SHOWN = ("unpruned", "bayes_random", "bayes_magnitude")  # in the paper's learning curves
# What each of the paper's figures shows. Figure 7 does not name its level; it follows figure 4's.
IN_TEXT = {"mnist": 0.75, "fashion_mnist": 0.9, "cifar10": 0.9}
CURVES = {
    4 + 6 * d + 3 * n: (dataset, network, IN_TEXT[dataset])
    for d, dataset in enumerate(DATASETS)
    for n, network in enumerate(NETWORKS)
} | {
    22 + 10 * d + 2 * s + n: (dataset, network, level)
    for d, dataset in enumerate(DATASETS)
    for s, level in enumerate(LEVELS)
    for n, network in enumerate(NETWORKS)
}
BY_LEVEL = {
    5 + 6 * d + 3 * n + m: (dataset, network, method)
    for d, dataset in enumerate(DATASETS)
    for n, network in enumerate(NETWORKS)
    for m, method in enumerate(("bayes_random", "bayes_magnitude"))
}
Cell = tuple[str, str, str, float]


@dataclass(frozen=True)
class Wanted:
    """A figure to make.

    Args:
        name: of its file, without ending.
        title: what stands above it.
        cells: (data set, network, method, sparsity) that it needs.
        draw: makes it from the results and histories of its data set and network.
        number: the paper's, None for a figure of ours.
    """

    name: str
    title: str
    cells: frozenset[Cell]
    draw: Callable[[pd.DataFrame, pd.DataFrame], Figure]
    number: int | None = None


def wanted(results: pd.DataFrame) -> list[Wanted]:
    """Return the paper's figures, the same ones of other data in the results, and ours."""
    pairs = sorted(set(zip(results["dataset"], results["network"], strict=True)))
    other = [pair for pair in pairs if pair[0] not in DATASETS]
    levels = sorted(float(level) for level in results["sparsity"].unique() if level)
    paper = [_curves(d, n, level, number) for number, (d, n, level) in CURVES.items()]
    paper += [_by_level(d, n, m, LEVELS, number) for number, (d, n, m) in BY_LEVEL.items()]
    methods = ("bayes_random", "bayes_magnitude")
    mine = [_curves(d, n, level) for d, n in other for level in levels]
    mine += [_by_level(d, n, method, levels) for d, n in other for method in methods]
    mine += [_accuracy(d, n) for d, n in pairs]
    makers = (_twins, _layers, _parts)
    mine += [make(d, n, level) for d, n in pairs for level in levels for make in makers]
    return sorted(paper, key=lambda figure: figure.number or 0) + mine


def _curves(dataset: str, network: str, level: float, number: int | None = None) -> Wanted:
    def draw(_: pd.DataFrame, histories: pd.DataFrame) -> Figure:
        return plots.comparison(_at(histories, level), SHOWN)

    cells = {(dataset, network, m, level if m in PRUNED else 0.0) for m in (*SHOWN, *DENSE)}
    return _wanted("learning curves", dataset, network, f"{level:.0%}", cells, draw, number)


def _by_level(
    dataset: str, network: str, method: str, levels: Sequence[float], number: int | None = None
) -> Wanted:
    def draw(_: pd.DataFrame, histories: pd.DataFrame) -> Figure:
        return plots.loss_by_level(histories[histories["method"].isin([method, "bayes_unpruned"])])

    cells = {(dataset, network, method, level) for level in levels}
    cells |= {(dataset, network, "bayes_unpruned", 0.0)}
    return _wanted("loss by level", dataset, network, plots.label(method), cells, draw, number)


def _accuracy(dataset: str, network: str) -> Wanted:
    def draw(results: pd.DataFrame, _: pd.DataFrame) -> Figure:
        return plots.accuracy_against_compression(results)

    return _wanted("accuracy against compression", dataset, network, "", set(), draw)


def _twins(dataset: str, network: str, level: float) -> Wanted:
    def draw(_: pd.DataFrame, histories: pd.DataFrame) -> Figure:
        return plots.twins(_at(histories, level))

    cells = {(dataset, network, m, 0.0 if m in DENSE else level) for m in (*DENSE, *PRUNED)}
    return _wanted("twins", dataset, network, f"{level:.0%}", cells, draw)


def _layers(dataset: str, network: str, level: float) -> Wanted:
    def draw(_: pd.DataFrame, histories: pd.DataFrame) -> Figure:
        return plots.by_method(_at(histories, level), PRUNED, plots.layer_sparsity)

    cells = {(dataset, network, method, level) for method in PRUNED}
    return _wanted("sparsity by layer", dataset, network, f"{level:.0%}", cells, draw)


def _parts(dataset: str, network: str, level: float) -> Wanted:
    def draw(_: pd.DataFrame, histories: pd.DataFrame) -> Figure:
        return plots.by_method(_at(histories, level), PRUNED, plots.bayes_factor_parts)

    cells = {(dataset, network, method, level) for method in PRUNED}
    return _wanted("parts of the log Bayes factor", dataset, network, f"{level:.0%}", cells, draw)


def _wanted(
    what: str,
    dataset: str,
    network: str,
    which: str,
    cells: set[Cell],
    draw: Callable[[pd.DataFrame, pd.DataFrame], Figure],
    number: int | None = None,
) -> Wanted:
    title = ", ".join(part for part in (f"{dataset}, {network.upper()}", which, what) if part)
    words = [Path(dataset).stem, network, which, "" if number else what]
    name = "-".join(w.replace("%", "").replace(" ", "-").lower() for w in words if w)
    if number:
        name, title = f"figure-{number:02d}-{name}", f"Paper's figure {number}: {title}"
    cells = cells or {(dataset, network, "unpruned", 0.0)}
    return Wanted(name, title, frozenset(cells), draw, number)


def _at(histories: pd.DataFrame, level: float) -> pd.DataFrame:
    """Return the runs of one level, and the unpruned ones."""
    return histories[histories["level"].isin([0.0, level])]


def figures(
    store: str | Path,
    out: str | Path = "figures",
    *,
    format: str = "png",  # noqa: A002
    where: Mapping[str, str] | None = None,
) -> tuple[list[Path], list[str]]:
    """Write all figures that a store has runs for: the paper's, under its numbers, and ours.

    Args:
        store: folder of run folders, or of results.csv and histories.csv.gz.
        out: where to write them.
        format: ending of the files: png, svg or pdf.
        where: which runs, if the store holds several variants; see `one_variant`.

    Returns:
        The files, and a line for each figure of the paper that could not be made for want of runs.
    """
    results = one_variant(load_results(store), where)
    results = results[results["sparsity"].map(lambda level: level != "auto")]
    results = results.astype({"sparsity": float})
    histories = load_histories(store)
    histories = histories[histories["id"].isin(results["id"])].astype({"level": float})
    histories = twins(histories, results)
    have = set(results[GROUP].itertuples(index=False, name=None))
    folder, written, missing = Path(out), [], []
    folder.mkdir(parents=True, exist_ok=True)
    for figure in wanted(results):
        if lacking := figure.cells - have:
            missing += [f"{figure.title}: {_told(lacking)}"] if figure.number else []
            continue
        dataset, network, *_ = next(iter(figure.cells))
        of = [
            f[(f["dataset"] == dataset) & (f["network"] == network)] for f in (results, histories)
        ]
        drawn = figure.draw(*of)
        drawn.suptitle(figure.title)
        written.append(folder / f"{figure.name}.{format}")
        drawn.savefig(written[-1], dpi=150)
    return written, missing


def _told(cells: frozenset[Cell]) -> str:
    names = sorted({f"{method} {level:.0%}" for _, _, method, level in cells})
    return "no runs of " + ", ".join(names)
