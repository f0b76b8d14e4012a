"""Does a positive log Bayes factor predict a better held-out log likelihood?

    python reports/evidence/make.py --dataset digits --out reports/evidence/digits

trains networks and takes decisions at several epochs: by each criterion, prune to each level? Three
kinds of log Bayes factor answer from the training data. The truth is a difference of mean log
likelihoods, pruned minus unpruned, on held-out examples: right after zeroing, and after both
networks, the pruned one under its masks, have trained on for some epochs on the same batches.
"""

import copy
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from pyro_bayesprune._utils.random import random_stream
from pyro_bayesprune.data import dataset
from pyro_bayesprune.data.builtin import load_dataset
from pyro_bayesprune.data.dataset import Dataset
from pyro_bayesprune.inference import curvature, evidence, savage_dickey
from pyro_bayesprune.inference.log_joint import log_joint
from pyro_bayesprune.inference.metrics import sparsity
from pyro_bayesprune.inference.prediction import held_out_loss
from pyro_bayesprune.models.module import BayesianModule, Masks, Weights
from pyro_bayesprune.models.networks import FCN
from pyro_bayesprune.models.priors import normal
from pyro_bayesprune.pruning.masks import apply_masks, propose_masks
from pyro_bayesprune.pruning.registry import CRITERIA, resolve
from pyro_bayesprune.pruning.settings import Pruning
from pyro_bayesprune.training.loop import train
from pyro_bayesprune.training.state import State

KINDS = ("joint", "laplace", "savage_dickey")
TRUTHS = ("held_out_now", "held_out_later")
RANKINGS = ("random", "magnitude", "opd", "savage_dickey")
LEVELS = (0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9)
UNPRUNED = Pruning(sparsity=0.0)


@dataclass(frozen=True)
class Decisions:
    """What to decide about.

    Args:
        epochs: when.
        criteria: names of rankings.
        levels: sparsities.
        later: epochs that both networks train on for ``held_out_later``.
        seed: of the training and of random rankings.
    """

    epochs: Sequence[int] = (2, 5, 10, 15)
    criteria: Sequence[str] = RANKINGS
    levels: Sequence[float] = LEVELS
    later: int = 3
    seed: int = 0


def calibrate(model: BayesianModule, data: Dataset, plan: Decisions) -> pd.DataFrame:
    """Return a row for each decision: log Bayes factors by kind, held-out differences; nats."""
    rows: list[dict[str, object]] = []
    for state, _ in train(model, data, epochs=max(plan.epochs), pruning=UNPRUNED, seed=plan.seed):
        if state.epoch in plan.epochs:
            now = _log_score(model, state.weights, data)
            later = _log_score(model, _trained_on(model, state, data, plan).weights, data)
            for criterion, masks in _candidates(model, state, data, plan):
                weights = apply_masks(state.weights, masks)
                after = replace(state, weights=weights, masks=masks)
                rows.append(
                    {
                        "seed": plan.seed,
                        "epoch": state.epoch,
                        "criterion": criterion,
                        "sparsity": sparsity(masks),
                        **log_factors(model, state.weights, masks, data),
                        "held_out_now": _log_score(model, weights, data) - now,
                        "held_out_later": _log_score(
                            model, _trained_on(model, after, data, plan).weights, data
                        )
                        - later,
                    }
                )
    return pd.DataFrame(rows)


def _candidates(
    model: BayesianModule, state: State, data: Dataset, plan: Decisions
) -> Iterator[tuple[str, Masks]]:
    for criterion in plan.criteria:
        stream = random_stream(plan.seed, "calibration", state.epoch)
        scores = resolve(CRITERIA, criterion)(
            state.weights, state.masks, model=model, data=data, generator=stream
        )
        for level in plan.levels:
            yield criterion, propose_masks(scores, state.weights, state.masks, level, "layer")


def log_factors(
    model: BayesianModule, weights: Weights, masks: Masks, data: Dataset
) -> dict[str, float]:
    """Return the log Bayes factors of zeroing what ``masks`` remove, by kind, in nats.

    ``savage_dickey`` is the sum of single factors with marginal precisions: no group form is within
    reach for half a million weights.
    """
    sample = dataset.random_sample(data, random_stream(0, "curvature"))
    precision = evidence.marginal_precision(model, weights, sample)
    delta = curvature.prior_precision(model, weights)
    before = log_joint(model, weights, data).total
    joint = log_joint(model, apply_masks(weights, masks), data).total - before
    removed = {n: ~mask for n, mask in masks.items()}
    gain = sum((precision[n] / delta[n])[r].log().sum().item() / 2 for n, r in removed.items())
    single = sum(
        savage_dickey.savage_dickey(weights[n].double(), precision[n], delta[n])[r].sum().item()
        for n, r in removed.items()
    )
    return {"joint": joint, "laplace": joint + gain, "savage_dickey": single}


def _trained_on(model: BayesianModule, state: State, data: Dataset, plan: Decisions) -> State:
    # Loading an optimiser's state shares its tensors, and training writes into them.
    start = replace(state, optimizer=copy.deepcopy(state.optimizer))
    *_, (end, _) = train(
        model,
        data,
        epochs=state.epoch + plan.later,
        pruning=UNPRUNED,
        seed=plan.seed,
        state=start,
    )
    return end


def _log_score(model: BayesianModule, weights: Weights, data: Dataset) -> float:
    if data.validation_x is None or data.validation_y is None:
        raise ValueError("a calibration needs held-out examples: data with a validation part")
    return -held_out_loss(model, weights, data.validation_x, data.validation_y)[0]


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return how well sign and order of each kind's log BF predict each truth.

    ``better`` is the share of decisions after which the pruned network was the better one,
    ``base_rate`` the sign agreement of the better of the two constant answers, ``positive`` the
    share of positive log Bayes factors.
    """
    rows = []
    for truth in TRUTHS:
        better = table[truth] > 0
        for kind in KINDS:
            rows.append(
                {
                    "truth": truth,
                    "kind": kind,
                    "decisions": len(table),
                    "better": better.mean(),
                    "positive": (table[kind] > 0).mean(),
                    "base_rate": max(better.mean(), 1 - better.mean()),
                    "sign_agreement": ((table[kind] > 0) == better).mean(),
                    "spearman": table[kind].corr(table[truth], method="spearman"),
                }
            )
    return pd.DataFrame(rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Write ``decisions-<dataset>.csv`` and ``calibration-<dataset>.csv``; print the second."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="digits", help="name of a data set")
    parser.add_argument("--data_dir", help="folder of the data files")
    parser.add_argument("--validation", type=float, default=0.4, help="share held out")
    parser.add_argument("--hidden", type=int, default=128, help="width of three hidden layers")
    parser.add_argument("--prior_scale", type=float, default=0.3, help="σ of the prior")
    parser.add_argument("--epochs", type=int, nargs="+", default=(2, 5, 10, 15), help="when")
    parser.add_argument("--seeds", type=int, default=2, help="networks trained")
    parser.add_argument("--out", type=Path, default=Path("reports/evidence"), help="folder")
    given = parser.parse_args(argv)
    data = load_dataset(given.dataset, given.data_dir, validation=given.validation)
    net = FCN(data.shape, data.num_classes, hidden=(given.hidden,) * 3)
    model = BayesianModule(net, normal(given.prior_scale), data.num_train)
    plans = [Decisions(epochs=given.epochs, seed=seed) for seed in range(given.seeds)]
    table = pd.concat(calibrate(model, data, plan) for plan in plans)
    given.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(given.out / f"decisions-{given.dataset}.csv", index=False)
    found = summary(table)
    found.to_csv(given.out / f"calibration-{given.dataset}.csv", index=False)
    print(found.to_string(index=False, float_format="{:.3f}".format))


if __name__ == "__main__":
    main()
