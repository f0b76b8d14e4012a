"""The first screen of a report: what was pruned, cards with the main numbers, and one figure."""

from collections.abc import Iterator, Sequence

import pandas as pd

from pyro_bayesprune.experiments.errors import RunError
from pyro_bayesprune.experiments.loading import Run
from pyro_bayesprune.export.encodings import encode
from pyro_bayesprune.models.module import Weights
from pyro_bayesprune.reporting import run_sections
from pyro_bayesprune.reporting.flags import FEW_SEEDS, control, finished, repetitions
from pyro_bayesprune.reporting.html import TEXTS, Card, Panel, panel, span

CARDS = TEXTS["cards"]
QUALITY = {  # by the score of a run, as names of metrics
    "accuracy": ("test_loss", "test_ece"),
    "rmse": ("test_loss", "test_coverage_90"),
}
HEADER = 80  # bytes that the header of a file needs for each array


def title(runs: Sequence[Run]) -> str:
    """Return what was pruned."""
    if len(runs) == 1:
        return runs[0].title
    pairs = dict.fromkeys(" ".join(map(str, run.pair)) for run in runs)
    return f"{len(runs)} runs of {', '.join(pairs)}"


def cards(runs: Sequence[Run]) -> list[Card]:
    """Return the main numbers of the pruned runs: one value, or the range of several runs."""
    done = finished(runs)
    pruned = [run for run in done if not run.dense]
    shown = pruned or done
    result = [*_quality(shown, runs), *(_pruning(pruned) if pruned else ())]
    seeds = [len({run.settings.get("seed") for run in group}) for group in repetitions(shown)]
    return [*result, _card("seeds", str(min(seeds)), FEW_SEEDS)] if shown else []


def _quality(shown: Sequence[Run], runs: Sequence[Run]) -> Iterator[Card]:
    for score, names in QUALITY.items():
        if chosen := [run for run in shown if run.score == score]:
            style = ".2%" if score == "accuracy" else ".4g"
            value = span([run.test_score for run in chosen], style)
            yield _card(score, value, _controls(chosen, runs, style))
            for name in names:
                yield _card(name, span([run.metrics.get(name) for run in chosen], ".4g"))


def _pruning(pruned: Sequence[Run]) -> Iterator[Card]:
    yield _card("zeros", span([run.metrics.get("achieved_sparsity") for run in pruned], ".2%"))
    ratios = [run.metrics.get("compression_ratio") for run in pruned]
    yield _card("compression", span(ratios, ".1f", "×"))
    sizes = [_sizes_of(run) for run in pruned]
    if None not in sizes:
        sparse, dense = zip(*sizes, strict=True)
        yield _card("file", span(sparse, ",.1f", " kB"), span(dense, ",.1f", " kB"))
    decisions = pd.concat([run.history.get("decision", pd.Series(dtype=str)) for run in pruned])
    number = decisions.value_counts().reindex(["pruned", "refused", "unchanged"], fill_value=0)
    value = f"{number['pruned']} of {number['pruned'] + number['refused']}"
    yield _card("decisions", value, number["unchanged"])


def _card(name: str, value: str, note: object = "") -> Card:
    label, explanation = CARDS[name]
    return Card(label, value, explanation.format(note))


def _controls(shown: Sequence[Run], runs: Sequence[Run], style: str) -> str:
    controls = [control(run, runs) for run in shown]
    scores = [run.test_score for run in controls if run is not None]
    if all(run.dense for run in shown):
        return CARDS["of_dense"]
    return CARDS["dense"].format(span(scores, style)) if scores else CARDS["no_control"]


def _sizes_of(run: Run) -> tuple[float, float] | None:
    try:
        return _file_sizes(run.weights)
    except RunError:  # a run of a store has no weights, and a folder may lack them
        return None


def _file_sizes(weights: Weights) -> tuple[float, float]:
    """Return the sizes of a file in the format ``sparse`` and of one with all weights, in kB."""
    stored = [encode(n, w.cpu(), "sparse", "float32")[0].values() for n, w in weights.items()]
    sparse = sum(array.nbytes + HEADER for arrays in stored for array in arrays)
    return sparse / 1000, sum(weight.nbytes + HEADER for weight in weights.values()) / 1000


def figure(runs: Sequence[Run]) -> Panel:
    """Return the figure beside the cards.

    It shows the score against compression, or the learning curves of a single run.
    """
    if len(finished(runs)) > 1:
        pictures = run_sections.compression_pictures(runs)
        if pictures:
            return panel("compression", pictures[:1])
    return run_sections.curves_panel(runs)
