"""Does a positive log Bayes factor predict a better held-out log likelihood?

    python reports/evidence/make.py --dataset digits --out reports/evidence/digits

trains networks and evaluates pruning decisions at several epochs, for each criterion and sparsity.
Three kinds of log Bayes factor are computed from the training data. They are compared with the
difference of the mean log likelihoods, pruned minus unpruned, on held-out examples: immediately
after pruning, and after both networks have been trained for some more epochs on the same batches,
the pruned network with its masks.
"""

import copy
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import pandas as pd

from pyro_bayesprune._utils.random import random_stream
from pyro_bayesprune.data import loading
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
    """The decisions to evaluate: at each epoch, for each criterion and sparsity."""

    epochs: Sequence[int] = (2, 5, 10, 15)
    criteria: Sequence[str] = RANKINGS
    levels: Sequence[float] = LEVELS
    later: int = 3  # number of further epochs before ``held_out_later`` is measured
    seed: int = 0  # of the training and of random criteria


def calibrate(model: BayesianModule, data: Dataset, plan: Decisions) -> pd.DataFrame:
    """Return a row for each decision: log Bayes factors by kind and held-out differences, nats."""
    training = train(model, data, epochs=max(plan.epochs), pruning=UNPRUNED, seed=plan.seed)
    states = (state for state, _ in training if state.epoch in plan.epochs)
    return pd.DataFrame([row for state in states for row in _rows(model, state, data, plan)])


def _rows(
    model: BayesianModule, state: State, data: Dataset, plan: Decisions
) -> Iterator[dict[str, object]]:
    """Yield a row for each decision at one epoch."""
    now, later = _log_scores(model, state, data, plan)
    for criterion, masks in _candidates(model, state, data, plan):
        pruned = replace(state, weights=apply_masks(state.weights, masks), masks=masks)
        pruned_now, pruned_later = _log_scores(model, pruned, data, plan)
        yield {
            "seed": plan.seed,
            "epoch": state.epoch,
            "criterion": criterion,
            "sparsity": sparsity(masks),
            **log_factors(model, state.weights, masks, data),
            "held_out_now": pruned_now - now,
            "held_out_later": pruned_later - later,
        }


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
    """Return the log Bayes factors of pruning with ``masks``, by kind, in nats.

    ``savage_dickey`` is the sum over single weights with marginal precisions. The factor of the
    group is not feasible for half a million weights.
    """
    sample = loading.random_sample(data, random_stream(0, "curvature"))
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


def _log_scores(
    model: BayesianModule, state: State, data: Dataset, plan: Decisions
) -> tuple[float, float]:
    """Return the mean held-out log likelihoods (nats) of a state and after further epochs."""
    if data.validation_x is None or data.validation_y is None:
        raise ValueError("the data set must have a validation part")
    held_out = data.validation_x, data.validation_y
    now = -held_out_loss(model, state.weights, held_out)[0]
    # A copy, because the training changes the tensors of the optimiser's state.
    start = replace(state, optimizer=copy.deepcopy(state.optimizer))
    options = {"epochs": state.epoch + plan.later, "seed": plan.seed, "state": start}
    *_, (end, _) = train(model, data, pruning=UNPRUNED, **options)
    return now, -held_out_loss(model, end.weights, held_out)[0]


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return how well the sign and the order of each log Bayes factor predict each truth.

    ``better`` is the share of decisions with a better pruned network, and ``positive`` that of
    positive log Bayes factors. ``base_rate`` is the sign agreement of the better constant answer.
    """
    pairs = pd.DataFrame(product(TRUTHS, KINDS), columns=["truth", "kind"])
    signs = [(table[truth] > 0, table[kind] > 0) for truth, kind in pairs.to_numpy()]
    return pairs.assign(
        decisions=len(table),
        better=[better.mean() for better, _ in signs],
        positive=[positive.mean() for _, positive in signs],
        base_rate=[max(better.mean(), 1 - better.mean()) for better, _ in signs],
        sign_agreement=[(better == positive).mean() for better, positive in signs],
        spearman=[table[k].corr(table[t], method="spearman") for t, k in pairs.to_numpy()],
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Write ``decisions-<dataset>.csv`` and ``calibration-<dataset>.csv``; print the second."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--dataset", default="digits", help="name of a data set")
    add("--data_dir", help="folder of the data files")
    add("--validation", type=float, default=0.4, help="held-out share")
    add("--hidden", type=int, default=128, help="width of three hidden layers")
    add("--prior_scale", type=float, default=0.3, help="σ of the prior")
    add("--epochs", type=int, nargs="+", default=(2, 5, 10, 15), help="epochs of decisions")
    add("--seeds", type=int, default=2, help="number of trained networks")
    add("--out", type=Path, default=Path("reports/evidence"), help="output folder")
    args = parser.parse_args(argv)
    data = load_dataset(args.dataset, args.data_dir, validation=args.validation)
    net = FCN(data.shape, data.num_classes, hidden=(args.hidden,) * 3)
    model = BayesianModule(net, normal(args.prior_scale), data.num_train)
    plans = [Decisions(epochs=args.epochs, seed=seed) for seed in range(args.seeds)]
    table = pd.concat(calibrate(model, data, plan) for plan in plans)
    args.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(args.out / f"decisions-{args.dataset}.csv", index=False)
    result = summary(table)
    result.to_csv(args.out / f"calibration-{args.dataset}.csv", index=False)
    print(result.to_string(index=False, float_format="{:.3f}".format))


if __name__ == "__main__":
    main()
