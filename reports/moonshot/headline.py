"""Write the table of results into the README and the pages: python reports/moonshot/headline.py.

It reads the runs of the default with 8 epochs in the folder `default` and in
reports/default/comparison, and the runs of `moonshot.yaml` for the two pairs that have no others.
"""

from pathlib import Path

import pandas as pd

from pyro_bayesprune import load_results
from pyro_bayesprune._utils.tables import table_markdown
from pyro_bayesprune.paper.table import paper_table1

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
STORES = (HERE / "default", ROOT / "reports" / "default" / "comparison")
PAGES = (ROOT / "README.md", ROOT / "docs" / "results.md", HERE / "README.md")
START, END = "<!-- results of the default -->\n", "\n<!-- end of results -->"
NAMES = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST", "cifar10": "CIFAR-10"}
LEVELS = (0.0, 0.9, 0.98, 0.99)
HEAD = [
    "data, network", "dense", "90% zeros", "98% zeros", "99% zeros", "the paper: dense, 99%",
]  # fmt: skip


def runs() -> pd.DataFrame:
    """Return the runs of the table."""
    ours = pd.concat(load_results(store) for store in STORES)
    ours = ours[(ours["objective"] == "map") & (ours["epochs"] == 8)]
    pairs = set(zip(ours["dataset"], ours["network"], strict=True))
    others = load_results(HERE)
    rest = [pair not in pairs for pair in zip(others["dataset"], others["network"], strict=True)]
    return pd.concat([ours, others[rest]])


def cell(chosen: pd.DataFrame, level: float) -> str:
    """Return mean ± standard deviation of the accuracy, the seeds, and zeros below the target."""
    if chosen.empty:
        return "–"
    accuracy, count = chosen["test_accuracy"], len(chosen)
    text = f"{accuracy.mean():.4f}" + (f" ± {accuracy.std():.4f}" if count > 1 else "")
    zeros = chosen["achieved_sparsity"].mean()
    missed = f", {zeros:.1%} zeros" if zeros < level - 0.001 else ""
    return f"{text} ({count}{missed})"


def table() -> str:
    """Return the table in Markdown, one row for each pair of data set and network."""
    ours, paper = runs(), paper_table1()
    rows = []
    for dataset in NAMES:
        for network in ("fcn", "cnn"):
            at = ours[(ours["dataset"] == dataset) & (ours["network"] == network)]
            theirs = paper[(paper["dataset"] == dataset) & (paper["network"] == network)]
            published = theirs.set_index(["method", "sparsity"])["accuracy"]
            cells = [cell(at[at["sparsity"].astype(float) == level], level) for level in LEVELS]
            reference = (("unpruned", 0.0), ("bayes_magnitude", 0.99))
            cells.append(", ".join(f"{published[key]:.4f}" for key in reference))
            rows.append([f"{NAMES[dataset]}, {network.upper()}", *cells])
    return table_markdown(HEAD, rows)


def filled(text: str) -> str:
    """Return a page with the table between its marks."""
    before, rest = text.split(START)
    return before + START + table() + END + rest.split(END, 1)[1]


def main() -> None:
    """Write the table into the pages."""
    for page in PAGES:
        page.write_text(filled(page.read_text()))


if __name__ == "__main__":
    main()
