"""Compare the sum of marginal Occam gains with the exact gain of the whole curvature matrix.

    python reports/evidence/occam.py

trains small networks on digits, removes weights, and writes occam/ratios.csv (one row for each
removal) and occam/README.md (means and ranges).
"""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

import pyro_bayesprune as bp
from pyro_bayesprune._utils.provenance import provenance
from pyro_bayesprune._utils.tables import table_markdown
from pyro_bayesprune.inference import blocks
from pyro_bayesprune.inference.curvature import flat, ggn_full, prior_precision
from pyro_bayesprune.inference.evidence import occam_gains
from pyro_bayesprune.models.module import Masks
from pyro_bayesprune.pruning.masks import propose_masks

FOLDER = Path(__file__).parent / "occam"
SEEDS, EPOCHS = (0, 1, 2), 20
UNPRUNED, REMOVED_OF_ALL = 0.0, (0.25, 0.5, 0.75, 0.9)
PRUNED, REMOVED_OF_REST = (0.5, 0.8), (0.25, 0.5)
TEXT = """# The Occam gain of a group of weights

`sparsity="auto"` adds up the marginal Occam gains of the weights that a step removes
(`evidence.occam_gains`). Marginal gains leave out how the removed weights depend on each other,
and blocks leave out how layers do: the sum is neither a lower nor an upper bound. Here it is
compared with the gain by the log determinants of the whole matrix (`curvature.ggn_full`), for
networks of widths 16-20-20-10 on digits (averaged to 4 × 4 pixels), prior N(0, 0.3²), {epochs}
epochs, seeds {seeds}.
The table shows sum / exact: mean ± sample standard deviation over seeds, and the range.

{table}

Over all {count} removals the ratio lies between {low:.2f} and {high:.2f}. It was tried on no larger
network: there the whole matrix does not fit into memory.

Made by `python reports/evidence/occam.py`, all removals in [ratios.csv](ratios.csv). {versions};
{machine}; commit {commit}.
"""


def trained(data: bp.Dataset, seed: int, sparsity: float) -> bp.Fit:
    """Return a trained network with this sparsity."""
    torch.manual_seed(seed)
    model = bp.BayesianModule(bp.FCN((16,), 10, (20, 20)), bp.priors.normal(0.3), data.num_train)
    pruning = bp.Pruning(sparsity=sparsity, gate="always")
    return bp.fit(model, data, epochs=EPOCHS, pruning=pruning, seed=seed, progress=False)


def exact_gain(fit: bp.Fit, data: bp.Dataset) -> Callable[[Masks], float]:
    """Return a function that computes the exact gain (nats) of replacing the masks by others.

    The gain is ½ log det P of the current weights, minus ½ log det P of the remaining weights,
    minus ½ Σ log δ of the removed weights. P is the precision of the posterior, δ of the prior.
    """
    delta = flat(fit.model, prior_precision(fit.model, fit.state.weights))
    precision = ggn_full(fit.model, fit.state.weights, data) + delta.diag()

    def surviving(masks: Masks) -> Tensor:
        return flat(fit.model, blocks.kept_weights(fit.model, masks)).bool()

    def log_det(rows: Tensor) -> float:
        return torch.logdet(precision[rows][:, rows]).item()

    before = surviving(fit.masks)

    def gain(masks: Masks) -> float:
        after = surviving(masks)
        removed = before & ~after
        return (log_det(before) - log_det(after) - delta[removed].log().sum().item()) / 2

    return gain


def removals(fit: bp.Fit, seed: int) -> Iterator[tuple[str, float, Masks]]:
    """Yield the criterion, the share of the surviving weights, and the masks of each removal."""
    generator, weights = torch.Generator().manual_seed(seed), fit.state.weights
    scores = {
        "magnitude": {n: weights[n].abs() for n in fit.masks},
        "random": {n: torch.rand(m.shape, generator=generator) for n, m in fit.masks.items()},
    }
    shares = REMOVED_OF_REST if fit.sparsity else REMOVED_OF_ALL
    for criterion, score in scores.items():
        for share in shares:
            level = fit.sparsity + (1 - fit.sparsity) * share
            yield criterion, share, propose_masks(score, weights, fit.masks, level, "layer")


def ratios(data: bp.Dataset, seed: int, sparsity: float) -> Iterator[dict[str, object]]:
    """Yield a row for each removal of one network."""
    fit = trained(data, seed, sparsity)
    exact, gains = exact_gain(fit, data), occam_gains(fit.model, fit.state.weights, data)
    for criterion, share, masks in removals(fit, seed):
        removed = {n: fit.masks[n] & ~masks[n] for n in masks}
        total = sum(gains[n][removed[n]].sum().item() for n in masks)
        yield {
            "seed": seed,
            "pruned before": sparsity,
            "criterion": criterion,
            "removed": share,
            "sum": total,
            "exact": exact(masks),
            "ratio": total / exact(masks),
        }


def page(table: pd.DataFrame) -> str:
    """Return the page with the mean and the range of the ratio for each setting."""
    groups = table.groupby(["pruned before", "criterion", "removed"])["ratio"]
    head = ["pruned before", "criterion", "removed of the rest", "sum / exact", "range"]
    rows = []
    for (before, criterion, removed), ratio in groups:
        setting = [f"{before:.0%}", criterion, f"{removed:.0%}"]
        spread = (
            f"{ratio.mean():.2f} ± {ratio.std():.2f}",
            f"{ratio.min():.2f} to {ratio.max():.2f}",
        )
        rows.append([*setting, *spread])
    now = provenance()
    return TEXT.format(
        epochs=EPOCHS,
        seeds=", ".join(map(str, SEEDS)),
        table=table_markdown(head, rows),
        count=len(table),
        low=table["ratio"].min(),
        high=table["ratio"].max(),
        versions=", ".join(f"{name} {number}" for name, number in now["versions"].items()),
        machine=", ".join(f"{name} {value}" for name, value in now["machine"].items()),
        commit=now["commit"],
    )


def main() -> None:
    """Measure all removals and write the table and the page."""
    torch.set_num_threads(1)
    digits = bp.load_dataset("digits")
    data = bp.Dataset(avg_pool2d(digits.train_x, 2).flatten(1), digits.train_y)
    networks = itertools.product((UNPRUNED, *PRUNED), SEEDS)
    table = pd.DataFrame(row for level, seed in networks for row in ratios(data, seed, level))
    FOLDER.mkdir(exist_ok=True)
    table.round(4).to_csv(FOLDER / "ratios.csv", index=False)
    (FOLDER / "README.md").write_text(page(table), encoding="utf-8")


if __name__ == "__main__":
    main()
