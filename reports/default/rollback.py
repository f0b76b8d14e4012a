"""Compare a policy that is not in the package: prune, train an epoch, and roll back.

    python reports/default/rollback.py

Each step prunes to the schedule's target. After one more epoch of training, the log joint must be
above the one before the step by log(0.95) nats for each example. Otherwise the weights, masks and
moments before the step return, and the next step raises the sparsity by half as much. Random
streams depend on the epoch only, and the learning rate goes on. The results are validation results.
"""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pyro_bayesprune import BayesianModule, Dataset, prune_step, train
from pyro_bayesprune.experiments.build import build_data, build_model
from pyro_bayesprune.experiments.config import Config
from pyro_bayesprune.inference.metrics import sparsity
from pyro_bayesprune.pruning.record import PruneState
from pyro_bayesprune.pruning.schedules import ENDS_AT, cubic
from pyro_bayesprune.pruning.settings import Pruning
from pyro_bayesprune.training.optimizer import adam
from pyro_bayesprune.training.state import State

FILE = Path(__file__).with_name("rollback.json")
TOLERANCE = -math.log(0.95)


def rolled_back(before: State, after: State) -> State:
    """Return the state before a step, with the learning rate of the state after it."""
    optimizer = before.optimizer | {"scheduler": after.optimizer["scheduler"]}
    return replace(before, epoch=after.epoch, optimizer=optimizer)


def pruned(model: BayesianModule, state: State, data: Dataset, level: float) -> State:
    """Return the state with the smallest weights pruned to a level of sparsity."""
    settings = Pruning(sparsity=level, gate="always", scope="global", schedule="constant")
    result, _ = prune_step(model, PruneState(state.weights, state.masks), data, settings)
    return replace(state, weights=result.weights, masks=result.masks)


def evaluate(config: Config) -> dict[str, Any]:
    """Train with roll-backs; return the validation results of the last epoch."""
    data = build_data(config)
    model = build_model(config, data.shape, data.num_classes, data.num_train)
    optim = adam(config.learning_rate, config.epochs, annealing=True)
    state, before, joint, share, rolls = None, None, 0.0, 1.0, 0
    # A sparsity that is never reached, so that `train` prepares the masks.
    nothing = Pruning(sparsity=0.5, gate="always", schedule=lambda epoch, epochs, target: 0.0)
    for epoch in range(1, config.epochs + 1):
        steps = train(
            model, data, pruning=nothing, epochs=config.epochs, optim=optim,
            batch_size=config.batch_size, seed=config.seed, state=state,
        )  # fmt: skip
        state, result = next(steps)
        if before is not None and result.step.before.total < joint - TOLERANCE * data.num_train:
            state, share, rolls = rolled_back(before, state), share / 2, rolls + 1
        else:
            share, joint = 1.0, result.step.before.total
        before, now = None, sparsity(state.masks)
        target = cubic(epoch, config.epochs, float(config.sparsity))
        if target > now and epoch <= ENDS_AT * config.epochs:
            before = state
            state = pruned(model, state, data, now + share * (target - now))
    return {
        **{name: getattr(config, name) for name in ("dataset", "prior_scale", "seed")},
        "target": config.sparsity,
        "sparsity": sparsity(state.masks),
        "validation_loss": result.validation_loss,
        "validation_accuracy": result.validation_accuracy,
        "rolled_back": rolls,
    }


def main() -> None:
    """Evaluate the policy at 90% and 98% on all data sets."""
    torch.set_num_threads(1)
    from screen import DEFAULT, configurations

    rows = json.loads(FILE.read_text()) if FILE.exists() else []
    for config in configurations({"": DEFAULT}):
        key = {"dataset": config.dataset, "seed": config.seed, "target": config.sparsity}
        if not any(key.items() <= row.items() for row in rows):
            rows.append(evaluate(config))
            print(rows[-1], flush=True)
            FILE.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
