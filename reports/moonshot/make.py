"""Write the tables of results into the README and the pages: python reports/moonshot/make.py.

It reads the runs of this folder (made with `moonshot.yaml`), of its folders `default`, `lenet_full`
and `lenet`, and of reports/default/comparison. README.md has the commands that made them.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

from pyro_bayesprune import load_results
from pyro_bayesprune._utils.tables import fill, table_markdown
from pyro_bayesprune.paper.table import paper_table1

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PAGES = (ROOT / "README.md", ROOT / "docs" / "results.md", HERE / "README.md")
NAMES = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST", "cifar10": "CIFAR-10"}
LEVELS = (0.0, 0.9, 0.98, 0.99)
LENET_LEVELS = (0.0, 0.9, 0.95, 0.98, 0.99, 0.995)
LENETS = {"lenet_300_100": "LeNet-300-100", "lenet5": "LeNet-5"}
LENET_STORES = {"lenet_full": "ours, 25 epochs", "lenet": "ours, 12 epochs, nine tenths"}
PUBLISHED = {  # test accuracy in % at LENET_LEVELS
    "LeNet-300-100": {
        "sparse momentum, summary": ("98.69", "98.67", "98.53", "98.20", "97.53", ""),
        "sparse momentum, comparison": ("", "98.57 at 91.7%", "98.47", "98.01", "97.64", ""),
        "SNIP": ("", "", "98.4", "97.6", "", ""),
        "sparse variational dropout": ("", "", "", "98.08 at 68 times", "", ""),
    },
    "LeNet-5": {
        "sparse momentum": ("", "99.36", "99.31", "", "99.17", ""),
        "sparse variational dropout": ("", "", "", "", "", "99.25 at 280 times"),
    },
}


def cell(chosen: pd.DataFrame, level: float, factor: float = 1.0, digits: int = 4) -> str:
    """Return mean ± standard deviation of the accuracy, the seeds, and zeros below the target."""
    if chosen.empty:
        return "–"
    accuracy, count = factor * chosen["test_accuracy"], len(chosen)
    text = f"{accuracy.mean():.{digits}f}"
    text += f" ± {accuracy.std():.{digits}f}" if count > 1 else ""
    zeros = chosen["achieved_sparsity"].mean()
    missed = f", {zeros:.1%} zeros" if zeros < level - 0.001 else ""
    return f"{text} ({count}{missed})"


def at(runs: pd.DataFrame, level: float) -> pd.DataFrame:
    """Return the runs with a target sparsity."""
    return runs[runs["sparsity"].astype(float) == level]


def pairs(runs: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame, list[str]]]:
    """Yield the name of each pair of data set and network, its runs, and the paper's accuracies.

    The accuracies are those of the unpruned network and of Bayes magnitude at 99%.
    """
    paper = paper_table1()
    for dataset, name in NAMES.items():
        for network in ("fcn", "cnn"):
            of = runs[(runs["dataset"] == dataset) & (runs["network"] == network)]
            theirs = paper[(paper["dataset"] == dataset) & (paper["network"] == network)]
            published = theirs.set_index(["method", "sparsity"])["accuracy"]
            reference = (("unpruned", 0.0), ("bayes_magnitude", 0.99))
            yield f"{name}, {network.upper()}", of, [f"{published[key]:.4f}" for key in reference]


def default() -> str:
    """Return the table of the default with 8 epochs."""
    stores = (HERE / "default", ROOT / "reports" / "default" / "comparison")
    runs = pd.concat(load_results(store) for store in stores)
    runs = runs[(runs["objective"] == "map") & (runs["epochs"] == 8)]
    zeros = [f"{level:.0%} zeros" if level else "dense" for level in LEVELS]
    head = ["data, network", *zeros, "the paper: dense, 99%"]
    rows = [
        [name, *(cell(at(of, level), level) for level in LEVELS), ", ".join(published)]
        for name, of, published in pairs(runs)
    ]
    return table_markdown(head, rows)


def same_settings() -> str:
    """Return the table of `moonshot.yaml`: 99% zeros beside dense networks with its settings."""
    head = ["data, network", "dense", "99% zeros", "difference in points", "the paper: dense, 99%"]
    rows = []
    for name, of, published in pairs(load_results(HERE)):
        dense, pruned = (at(of, level).set_index("seed") for level in (0.0, 0.99))
        points = 100 * (pruned["test_accuracy"] - dense["test_accuracy"]).dropna()
        spread = f" ± {points.std():.2f}" if len(points) > 1 else ""
        text = "–" if points.empty else f"{points.mean():+.2f}{spread} ({len(points)})"
        rows.append([name, cell(dense, 0.0), cell(pruned, 0.99), text, ", ".join(published)])
    return table_markdown(head, rows)


def lenets() -> str:
    """Return the table of the LeNets on MNIST beside published numbers, in %."""
    head = ["", *(f"{100 * level:g}%" if level else "dense" for level in LENET_LEVELS)]
    rows = []
    for network, name in LENETS.items():
        for store, label in LENET_STORES.items():
            runs = load_results(HERE / store)
            runs = runs[runs["network"] == network]
            cells = [cell(at(runs, level), level, 100.0, 2) for level in LENET_LEVELS]
            rows += [[f"{name}, {label}", *cells]] if len(runs) else []
        rows += [
            [f"{name}, {method}", *accuracies] for method, accuracies in PUBLISHED[name].items()
        ]
    return table_markdown(head, rows)


TABLES: dict[str, Callable[[], str]] = {
    "results of the default": default,
    "99% with the same settings": same_settings,
    "LeNets": lenets,
}


def main() -> None:
    """Write the tables into the pages."""
    for page in PAGES:
        page.write_text(fill(page.read_text(), TABLES))


if __name__ == "__main__":
    main()
