"""Make the tables and figures of this folder: python reports/paper/make.py.

The script writes each table between the comments that name it, in README.md and docs/results.md. It
draws each figure that README.md shows. It reads the runs in results.csv of this folder and of the
folders studies, regrowth and controls. README.md has the commands that made these runs.
"""

import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from pyro_bayesprune import configure, load_histories, load_results, paper, plots
from pyro_bayesprune._utils.tables import fill, table_markdown
from pyro_bayesprune.experiments.designs import controls, product
from pyro_bayesprune.experiments.results import GROUP
from pyro_bayesprune.paper import drawing
from pyro_bayesprune.paper.table import DENSE, PRUNED

HERE = Path(__file__).parent
PAGES = (HERE / "README.md", HERE.parents[1] / "docs" / "results.md")
STUDIES, CONTROLS, REGROWTH = HERE / "studies", HERE / "controls", HERE / "regrowth"
STUDIED = ("prior_scale", "gate", "beta", "per", "schedule", "regrow", "scope", "hidden")
LEVELS = (0.9, 0.99)  # sparsities of the controls and of the short Table 1
SEEDS, EPOCHS = (0, 1, 2), 8  # of the controls


def studies(*varied: str) -> pd.DataFrame:
    """Return the runs that differ from the preset only in the varied settings."""
    runs, preset = load_results(STUDIES), configure("paper").to_dict()
    for name in set(STUDIED) - set(varied):
        runs = runs[runs[name].map(str) == str(preset[name])]
    return runs


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return rows as a Markdown table."""
    return table_markdown(rows[0], (map(str, row.values()) for row in rows))


def scores(run: Any) -> dict[str, str]:  # noqa: ANN401  (a named tuple)
    """Return the columns about the predictions of a run."""
    return {"test accuracy": f"{run.test_accuracy:.4f}", "test NLL": f"{run.test_loss:.3f}"}


def steps(run: Any) -> dict[str, str]:  # noqa: ANN401  (a named tuple)
    """Return the sparsity after each epoch's step, and the step's Bayes factor or its decision."""
    epochs = load_histories(STUDIES)
    epochs = epochs[epochs["id"] == run.id]
    zeros = [f"{share:.0%}" for share in epochs["sparsity"]]
    factors = [
        f"{epoch.bf_per_datum:.3f}" if epoch.decision == "pruned" else epoch.decision
        for epoch in epochs.itertuples()
    ]
    return {"zeros by epoch": ", ".join(zeros), "Bayes factor per datum": ", ".join(factors)}


def gate() -> str:
    """Return the table of the gate, β and its scale, under the cubic schedule."""
    runs = studies("gate", "beta", "per", "schedule")
    runs = runs[runs["schedule"] == "cubic"].sort_values(["gate", "per", "beta"])
    return markdown(
        [
            {"gate": run.gate, "per": run.per, "β": f"{run.beta:g}"} | scores(run) | steps(run)
            for run in runs.itertuples()
        ]
    )


def sigma() -> str:
    """Return the table of the prior's width."""
    runs = studies("prior_scale").query("sparsity == 0.9").sort_values("prior_scale")
    return markdown([{"σ": f"{run.prior_scale:g}"} | scores(run) for run in runs.itertuples()])


def width() -> str:
    """Return the table of the width of the three hidden layers."""
    return markdown(
        [
            {
                "zeros": f"{run.sparsity:.0%}",
                "widths": run.hidden.strip("[]").replace(", ", "-"),
                "weights left": f"{run.prunable * (1 - run.achieved_sparsity):,.0f}",
            }
            | scores(run)
            for run in studies("hidden").sort_values(["sparsity", "parameters"]).itertuples()
        ]
    )


def regrow() -> str:
    """Return the table of masks that persist or are removed, for both scopes."""
    runs = studies("regrow", "scope").sort_values(["sparsity", "regrow", "scope"])
    return markdown(
        [
            {"target": f"{run.sparsity:.0%}", "scope": run.scope}
            | {"masks": "lifted" if run.regrow else "persist"}
            | scores(run)
            | steps(run)
            for run in runs.itertuples()
        ]
    )


def regrowth() -> str:
    """Return the accuracy with regrowth: after the last cut, and of the last unmasked network."""
    histories = load_histories(REGROWTH)
    names = ["dataset", "network", "method", "level", "seed", "epoch"]
    persisting = load_histories(HERE).set_index(names)["test_accuracy"]
    published = paper.paper_table1().set_index(GROUP)["accuracy"]
    rows = []
    for run in load_results(REGROWTH).sort_values(["network", "method", "sparsity"]).itertuples():
        last = histories[histories["id"] == run.id].groupby("decision")["test_accuracy"].last()
        name = (run.dataset, run.network, run.method, run.sparsity)
        accuracies = {
            "after the last cut": last.get("pruned"),
            "last whole network": last.get("refused"),
            "masks persist": persisting.get((*name, run.seed, run.epochs)),
            "the paper": published[name],
        }
        rows.append(
            {"network": run.network.upper(), "method": plots.label(run.method)}
            | {"zeros at a cut": f"{run.sparsity:.0%}"}
            | {of: "" if pd.isna(value) else f"{value:.4f}" for of, value in accuracies.items()}
        )
    return markdown(rows)


def of_controls() -> str:
    """Return the table of the controls at both sparsities, over the seeds."""
    runs = load_results(CONTROLS).set_index("id")
    ids: dict[tuple[float, str], list[str]] = {}
    common = {"dataset": ("mnist",), "network": ("fcn",), "method": ("bayes_magnitude",)}
    for config in product("paper", sparsity=LEVELS, seed=SEEDS, epochs=(EPOCHS,), **common):
        for name, control in controls(config).items():
            ids.setdefault((config.sparsity, name), []).append(control.id)
    return markdown(
        [
            {"target": f"{level:.0%}", "control": name} | over_seeds(runs.loc[of])
            for (level, name), of in ids.items()
        ]
    )


def over_seeds(runs: pd.DataFrame) -> dict[str, str]:
    """Return the mean of the surviving weights; mean ± sample standard deviation of the scores."""
    accuracy, loss = runs["test_accuracy"], runs["test_loss"]
    left = runs["prunable"] * (1 - runs["achieved_sparsity"])
    return {
        "weights left": f"{left.mean():,.0f}",
        "test accuracy": f"{accuracy.mean():.4f} ± {accuracy.std():.4f}",
        "test NLL": f"{loss.mean():.3f} ± {loss.std():.3f}",
    }


def table1(levels: Sequence[float] = drawing.LEVELS) -> str:
    """Return our Table 1 with the paper's values, without the notes."""
    table = paper.table1(load_results(HERE))
    return paper.markdown(table[table["sparsity"].isin((0.0, *levels))]).strip()


def likelihoods() -> str:
    """Return the table of the test NLL of each method."""
    runs = load_results(HERE).pivot_table("test_loss", ["dataset", "network", "sparsity"], "method")
    runs = runs.reindex(columns=[m for m in (*DENSE, *PRUNED) if m in runs])
    return markdown(
        [
            {"dataset": dataset, "network": network.upper(), "sparsity": f"{sparsity:.0%}"}
            | {plots.label(m): "" if loss != loss else f"{loss:.3f}" for m, loss in of.items()}
            for (dataset, network, sparsity), of in zip(
                runs.index, runs.to_dict("records"), strict=True
            )
        ]
    )


TABLES: dict[str, Callable[[], str]] = {
    "table 1": table1,
    "table 1 at 90 and 99%": partial(table1, LEVELS),
    "likelihoods": likelihoods,
    "gate": gate,
    "sigma": sigma,
    "width": width,
    "regrow": regrow,
    "regrowth": regrowth,
    "controls": of_controls,
}


def main() -> None:
    """Write the tables and draw the figures."""
    for page in PAGES:
        page.write_text(fill(page.read_text(), TABLES))
    used = set(re.findall(r"\(figures/([^)]*)\)", PAGES[0].read_text()))
    with tempfile.TemporaryDirectory() as folder:
        for path in paper.figures(HERE, folder)[0]:
            if path.name in used:
                shutil.copy(path, HERE / "figures" / path.name)


if __name__ == "__main__":
    main()
