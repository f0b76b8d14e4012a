"""The page of `make.py`: tables and text from the stores."""

import json
from pathlib import Path

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from pyro_bayesprune._utils.tables import table_markdown
from pyro_bayesprune.experiments.results import load_results

FOLDER = Path(__file__).parent
NAMES = {
    "digits": "digits",
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
}
KEY = ["dataset", "network", "sparsity", "seed"]
MEASURES = {
    "test_accuracy": "accuracy",
    "test_loss": "NLL",
    "test_ece": "ECE",
    "achieved_sparsity": "zeros",
    "seconds": "seconds",
}
PRIORS = {  # objective, prior, scale, scope
    ("mle", "normal", 0.3, "layer"): "none, a ranking for each layer",
    ("mle", "normal", 0.3, "global"): "none",
    ("map", "normal", 0.1, "global"): "N(0, 0.1²)",
    ("map", "normal", 0.3, "global"): "N(0, 0.3²)",
    ("map", "normal", 1.0, "global"): "N(0, 1)",
    ("map", "normal_per_datum", 0.15, "global"): "N(0, 0.15² · 50,000 / N)",
    ("map", "normal_per_datum", 0.2, "global"): "N(0, 0.2² · 50,000 / N)",
    ("map", "normal_per_datum", 0.3, "global"): "N(0, 0.3² · 50,000 / N)",
    ("map", "normal_per_datum", 0.45, "global"): "N(0, 0.45² · 50,000 / N)",
    ("map", "fan_in_normal", 1.0, "global"): "N(0, 1 / fan-in)",
    ("map", "fan_in_normal", 10**0.5, "global"): "N(0, 10 / fan-in)",
    ("map", "fan_in_normal", 10.0, "global"): "N(0, 100 / fan-in)",
    ("map", "evidence_normal", 0.3, "global"): "scales by evidence",
}
POLICIES = {  # gate, schedule, criterion, judge, update
    ("always", "cubic", "magnitude", "project", "project"): "always",
    ("propose", "cubic", "magnitude", "project", "project"): "propose",
    ("propose", "cubic", "magnitude", "condition", "project"): "propose, at the conditioned point",
    ("propose", "cubic", "magnitude", "project", "condition"): "propose, survivors conditioned",
    ("retain", "cubic", "magnitude", "project", "project"): "retain",
    ("roll back", "cubic", "magnitude", "project", "project"): "roll back",
    ("always", "cubic", "opd", "project", "project"): "always, criterion opd",
    ("always", "one_shot", "magnitude", "project", "project"): "always, one shot",
    ("retain", "one_shot", "magnitude", "project", "project"): "retain, one shot",
}
PAIRS = ["digits\nFCN", "MNIST\nFCN", "MNIST\nCNN", "Fashion-MNIST\nFCN", "CIFAR-10\nFCN"]
PLAIN = {"schedule": "cubic", "criterion": "magnitude", "judge": "project", "update": "project"}
CHOSEN = {"objective": "map", "prior": "normal_per_datum", "prior_scale": 0.3, "scope": "global"}
TEXT = """# The default compared with plain magnitude pruning

The default (the preset `default`, also `Pruning()` with `priors.normal_per_datum`) prunes by
magnitude with one ranking for all layers. Its prior is N(0, 0.3² · 50,000 / N) for N training
examples. Its gate `retain` accepts a candidate that retains half of the gain in log joint over the
empty network, and prunes nothing in the last 20% of the epochs. Plain magnitude pruning has no
prior and no gate. Everything else is the same for both: one ranking for all layers, the cubic
schedule that reaches its target at 60% of the epochs, Adam, the initial weights and the order of
the data.

## Results on test data

Cells are means ± sample standard deviations over seeds. Differences are default minus magnitude,
paired by seed; those of accuracy are in percentage points. The networks are the library's FCN
(512-512-512) and CNN. Digits have 25 epochs, the CNN has 4, and the others have 8. Digits have 360
test examples, so one example is 0.28 points; the other data sets have 10,000.

{results}

{summary}

![Ratio of the test NLL of the default to that of magnitude pruning](default.png)

## How the default was chosen

The tables show the negative log likelihood and the accuracy on *validation* data, a tenth of the
training set. They are means over the seeds that were run: up to five for digits, of which the
validation data have 143 examples, and seed 0 elsewhere. The choice was made from these numbers. An
empty cell was not run.

Priors, with the gate `always` and, unless stated, one ranking for all layers:

{priors}

A fixed standard deviation that suits 54,000 examples is too narrow for 1,295, and one that suits
1,295 is too wide for 54,000. Scales by fan-in are poor on digits. With scales that are learnt from
the evidence, a run on digits took more than ten times as long, and predicted worse.

Policies, with the prior N(0, 0.3² · 50,000 / N) and one ranking for all layers. A share in
brackets is the share of zeros that was reached where it is not the target:

{policies}

`propose` compares the candidate where it is, with the threshold 0.95 per example. The conditioned
policies compare it at the point to which conditioning moves it. The roll-back prunes, trains for an
epoch, and returns to the state before the step if the log joint is lower by more than 0.051 nats
for each example (`rollback.py`; it is not in the package). The one-shot schedule prunes everything
at 60% of the epochs.

The gate `retain` was chosen. With the cubic schedule it reached all targets, where `propose` and
the roll-back missed 98%. Its validation likelihood is better than that of `always` on digits, and
equal on Fashion-MNIST, where it accepted every candidate. It costs one evaluation of the empty
network for each step. It also stops a step that would destroy the network: pruning digits to 98%
at once ends at chance with the gate `always`, but not with `retain` (the rows "one shot").

## Commands

```
python reports/default/screen.py
python reports/default/rollback.py
python reports/default/make.py
```

run what is missing, store validation results of policies, and write this page. {machine}
"""


def page() -> str:
    """Return the page in Markdown."""
    table, policies = load_results(FOLDER / "comparison"), _policies()
    machine = json.loads(str(table["machine"].iloc[0]))
    return TEXT.format(
        results=_results(table),
        summary=_summary(_differences(table)),
        priors=_validation_table(_only(policies, gate="always", **PLAIN), PRIORS, list(CHOSEN)),
        policies=_validation_table(_only(policies, **CHOSEN), POLICIES, ["gate", *PLAIN]),
        machine=f"Machine: {machine['processor']}, one thread; other programs ran beside it.",
    )


def _wide(table: pd.DataFrame) -> pd.DataFrame:
    """Return the measures of both methods side by side, a row for each pair of runs."""
    return table.pivot_table(index=KEY, columns="method", values=list(MEASURES)).dropna()


def _differences(table: pd.DataFrame) -> pd.DataFrame:
    """Return default minus magnitude for each pair of runs."""
    wide = _wide(table)
    return pd.DataFrame({m: wide[m]["default"] - wide[m]["magnitude"] for m in MEASURES})


def _cell(values: pd.Series, digits: int, factor: float = 1.0, sign: str = "") -> str:
    values = values * factor
    spread = f" ± {values.std():.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():{sign}.{digits}f}{spread}"


def _results(table: pd.DataFrame) -> str:
    wide, differences = _wide(table), _differences(table)
    head = ["data, network", "zeros", "seeds"]
    head += [f"{label}: magnitude, default" for label in ("accuracy", "NLL", "ECE")]
    head += ["accuracy, difference", "NLL, difference"]
    groups = wide.groupby(level=KEY[:3], sort=False)
    rows = []
    for (dataset, network, sparsity), part in groups:
        difference = differences.loc[(dataset, network, sparsity)]
        both = [
            "<br>".join(_cell(part[m][method], 4 if m == "test_accuracy" else 3) for method in
                        ("magnitude", "default"))
            for m in ("test_accuracy", "test_loss", "test_ece")
        ]  # fmt: skip
        rows.append([
            f"{NAMES[dataset]}, {network.upper()}",
            f"{part['achieved_sparsity']['default'].mean():.1%} of {sparsity:.0%}",
            str(len(part)),
            *both,
            _cell(difference["test_accuracy"], 2, 100, "+"),
            _cell(difference["test_loss"], 4, sign="+"),
        ])  # fmt: skip
    return table_markdown(head, rows)


def _summary(differences: pd.DataFrame) -> str:
    wide = _wide(load_results(FOLDER / "comparison"))["seconds"]
    times = (wide["default"] / wide["magnitude"]).groupby(level=["dataset", "network"]).median()
    others = times.drop(("fashion_mnist", "fcn"))
    means = differences.groupby(level=["dataset", "network"]).mean()
    lower = (means["test_loss"] < 0).sum()
    return (
        f"Over the {len(means)} pairs of data set and network, with both levels of sparsity "
        f"together, the mean difference in accuracy is {100 * means['test_accuracy'].mean():+.2f} "
        f"points, and the test NLL of the default is lower on {lower} of them. All targets were "
        f"reached. The default took {times['fashion_mnist', 'fcn']:.2f} times as long for the FCN "
        f"on Fashion-MNIST (median over seeds and levels), and {others.min():.2f} to "
        f"{others.max():.2f} times as long for the other pairs, beside other programs."
    )


def _policies() -> pd.DataFrame:
    """Return the results of the screening, and those of the roll-back as a further gate."""
    rolled = pd.read_json(FOLDER / "rollback.json").assign(**CHOSEN, **PLAIN, gate="roll back")
    rolled = rolled.rename(columns={"target": "sparsity", "sparsity": "achieved_sparsity"})
    return pd.concat([load_results(FOLDER / "policies"), rolled], ignore_index=True)


def _only(table: pd.DataFrame, **values: object) -> pd.DataFrame:
    """Return the rows with these values."""
    for name, value in values.items():
        table = table[table[name] == value]
    return table


def _validation_table(policies: pd.DataFrame, names: dict, settings: list[str]) -> str:
    """Return a table of validation results: a row for each policy, a column for each data set."""
    keys = list(zip(*(policies[name] for name in settings), strict=True))
    policies = policies.assign(name=[names.get(key) for key in keys]).dropna(subset="name")
    columns = [(d, s) for d in NAMES for s in (0.9, 0.98)]
    rows = [
        [name, *(_validation_cell(policies, name, *column) for column in columns)]
        for name in names.values()
        if (policies["name"] == name).any()
    ]
    return table_markdown(["", *(f"{NAMES[d]}, {s:.0%}" for d, s in columns)], rows)


def _validation_cell(policies: pd.DataFrame, name: str, dataset: str, sparsity: float) -> str:
    chosen = (policies["name"] == name) & (policies["dataset"] == dataset)
    part = policies[chosen & (policies["sparsity"] == sparsity)]
    if part.empty:
        return ""
    zeros = part["achieved_sparsity"].mean()
    missed = f" ({zeros:.1%})" if sparsity - zeros > 1e-3 else ""
    accuracy = part["validation_accuracy"].mean()
    return f"{part['validation_loss'].mean():.3f}<br>{accuracy:.4f}{missed}"


def figure() -> Figure:
    """Draw the test NLL of the default divided by that of magnitude pruning, for each seed."""
    wide = _wide(load_results(FOLDER / "comparison"))["test_loss"]
    ratios = (wide["default"] / wide["magnitude"]).rename("ratio").reset_index()
    ratios["pair"] = [
        f"{NAMES[d]}\n{n.upper()}"
        for d, n in zip(ratios["dataset"], ratios["network"], strict=True)
    ]
    ratios["zeros"] = ratios["sparsity"].map("{:.0%} zeros".format)
    drawing = Figure(figsize=(7, 3.4), layout="constrained")
    axes = drawing.subplots()
    order = [pair for pair in PAIRS if pair in set(ratios["pair"])]
    options = {"data": ratios, "x": "pair", "y": "ratio", "hue": "zeros", "order": order}
    options |= {"ax": axes, "dodge": 0.3}
    sns.stripplot(**options, size=4, alpha=0.5, legend=False)
    sns.pointplot(**options, errorbar=None, linestyle="none", markers="_", markersize=16)
    axes.axhline(1, color="grey", linewidth=1)
    axes.set(xlabel="", ylabel="test NLL, default / magnitude")
    axes.set_title("Below 1, the default predicts better than magnitude pruning", fontsize=10)
    axes.legend(title="", frameon=False)
    sns.despine(drawing)
    return drawing
