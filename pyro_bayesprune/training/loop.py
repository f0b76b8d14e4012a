"""MAP training by SVI with AutoDelta, one pruning step at the end of each epoch."""

import copy
import math
import time
import warnings
from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import cast, get_args

import torch
from pyro.optim import PyroOptim
from torch import Tensor

from pyro_bayesprune._utils.calls import suggests_names
from pyro_bayesprune._utils.checks import check_finite, check_kind, positive, positive_integer
from pyro_bayesprune._utils.process import alone, memory_kept
from pyro_bayesprune._utils.random import random_stream
from pyro_bayesprune.data.dataset import Pair
from pyro_bayesprune.data.loading import Data, as_batches, random_sample
from pyro_bayesprune.inference.evidence import evidence_scales
from pyro_bayesprune.inference.mode import gradient_norm
from pyro_bayesprune.inference.prediction import held_out_loss
from pyro_bayesprune.inference.targets import score_name
from pyro_bayesprune.models.module import BayesianModule, Masks, Model, network
from pyro_bayesprune.models.priors import EVIDENCE
from pyro_bayesprune.models.refusals import check_modules
from pyro_bayesprune.models.sites import (
    ModelSites,
    check_num_data,
    check_targets,
    check_weights,
    inspect_model,
)
from pyro_bayesprune.pruning.masks import masks_of_sites, warn_of_empty_sites
from pyro_bayesprune.pruning.prunable import prunable_sites
from pyro_bayesprune.pruning.record import PruneState
from pyro_bayesprune.pruning.registry import Autocast, Objective
from pyro_bayesprune.pruning.settings import Pruning
from pyro_bayesprune.pruning.step import prune_step
from pyro_bayesprune.training.optimizer import adam
from pyro_bayesprune.training.parameters import Parameters
from pyro_bayesprune.training.sources import Sources, on_device, set_autocast
from pyro_bayesprune.training.state import Epoch, State
from pyro_bayesprune.training.trainer import Trainer

UNPRUNED = Pruning(sparsity=0.0)


def _checked(
    model: Model, data: Sources, epochs: int, batch_size: int, objective: str, temp: float
) -> ModelSites:
    positive_integer("epochs", epochs)
    positive_integer("batch_size", batch_size)
    if objective not in get_args(Objective):
        raise ValueError(f"objective must be 'map' or 'mle', got {objective!r}")
    positive("temperature", temp)
    return checked_sites(model, data, batch_size)


def checked_sites(model: Model, data: Sources, batch_size: int) -> ModelSites:
    """Return the sites of a model that can be trained on these data.

    Raises:
        ValueError: if it cannot.
    """
    x, y = data.train.first(2)
    sites = inspect_model(model, x, y)
    num_data = as_batches(data.decisions).num_data
    check_num_data(sites, num_data)
    if len(sites.observed) != 1:
        raise ValueError(f"training needs one observed site, the model has {list(sites.observed)}")
    check_targets(sites, y)
    for part in ("train", "validation", "test"):
        if (targets := getattr(data.dataset, f"{part}_y", None)) is not None:
            check_targets(sites, targets, part)
    check_modules(model, x, y, batch_size, num_data)
    return sites


def score_of(sites: ModelSites) -> str:
    """Return the name of the score of a model's predictions, ``"accuracy"`` or ``"rmse"``."""
    (observed,) = sites.observed.values()
    return score_name(observed["fn"])


@suggests_names
def train(
    model: Model,
    data: Data,
    *,
    decide_on: Data | None = None,
    pruning: Pruning | None = None,
    epochs: int = 25,
    batch_size: int = 64,
    optim: PyroOptim | None = None,
    objective: Objective = "map",
    temperature: float = 1.0,
    seed: int = 0,
    initial_weights: Mapping[str, Tensor] | None = None,
    state: State | None = None,
    device: str | torch.device | None = None,
    autocast: Autocast = "none",
) -> Generator[tuple[State, Epoch]]:
    """Train to the MAP and prune at the end of each epoch; yield after each epoch.

    The argument ``model`` is never changed. Initial values, data order, dropout and pruning have
    separate random streams, so that all methods with one seed share them. With the same machine,
    versions and number of threads, a seed gives the same numbers bit for bit.

    Args:
        model: a Pyro model called as ``model(x, y)`` with a plate ``data``.
        data: a `Dataset`, whose training part is used and whose validation part is measured, or
            another form that `as_batches` accepts. A loader keeps its order and augmentation.
        decide_on: all N training examples for the decisions, in any form; by default ``data``. If
            these are augmented at random, decisions read them with one fixed augmentation.
        pruning: how to prune; None trains without pruning.
        epochs: total number of passes over the data, including those of ``state``.
        batch_size: examples of a training step; a loader has its own.
        optim: any `pyro.optim` optimiser; by default Adam of learning rate 0.001 that falls to
            zero over the last 40% of the epochs. A schedule takes one step after each epoch.
        objective: ``"map"``: −(log likelihood + log prior)/N; ``"mle"``: −log likelihood/N.
        temperature: divides the log likelihood, in training and in decisions (cold posteriors).
        seed: seed of all random streams.
        initial_weights: values for some or all sites; a `BayesianModule` starts from its module's.
        state: state from which to continue.
        device: device of the computation; by default that of data in memory, else of the model.
        autocast: ``"bf16"`` computes a network's outputs in bfloat16 in training steps. Likelihood,
            prior, optimiser and everything after the epoch remain in full precision.

    Raises:
        ValueError: if an argument is invalid; the message names it.
        TrainingDiverged: if a loss is not finite.

    Warns:
        RuntimeWarning: if a step prunes all weights of a site (recorded as a sparsity of 1).
    """
    pruning = pruning or UNPRUNED
    optim = optim or adam(1e-3, epochs, annealing=True, begun=state.unscheduled if state else 0)
    check_kind("pruning", pruning, Pruning)
    check_kind("optim", optim, PyroOptim)
    with alone():
        read, model = on_device(data, decide_on, model, device)
        sites = _checked(model, read, epochs, batch_size, objective, temperature)
        set_autocast(model, autocast)
        _check_initial(model, sites, initial_weights, state)
        state = state and state.to(read.train.device)
        trainer = Trainer(
            model,
            read.train,
            initial_weights=state.weights if state else initial_weights or {},
            optim=optim,
            objective=objective,
            temperature=temperature,
            seed=seed,
        )
        trainer.score = score_of(sites)
        trainer.freeze(name for name, site in sites.latent.items() if site["infer"].get(EVIDENCE))
        is_continued = state is not None
        state = starting_state(trainer, sites, read, pruning, state)
        if is_continued:
            _restore(trainer, state, pruning)
    for _ in range(state.epoch, epochs):
        with alone(), memory_kept():
            state, measured = _one_epoch(trainer, read, pruning, state, epochs, batch_size)
        yield state, measured


def starting_state(
    trainer: Parameters, sites: ModelSites, read: Sources, pruning: Pruning, state: State | None
) -> State:
    """Return the state before the first epoch, or a later one with masks of the prunable sites."""
    if state and pruning.sparsity == 0:
        return state
    x, _ = read.train.first(2)
    names = prunable_sites(trainer.model, sites, pruning.sites, x, pruning.scope)
    masks = {n: torch.ones_like(trainer.params[n], dtype=torch.bool) for n in names}
    if state:
        return replace(state, masks=masks_of_sites(state.masks, masks))
    _warn_if_nothing_prunable(names, pruning)
    return State(0, {}, masks, {}, {}, None)


def _restore(trainer: Trainer, state: State, pruning: Pruning) -> None:
    if state.optimizer:
        trainer.optim.set_state(state.optimizer)
    trainer.restore(state.buffers)
    trainer.project(state.masks, persist=not pruning.regrow)


def _one_epoch(
    trainer: Trainer, read: Sources, pruning: Pruning, state: State, epochs: int, batch_size: int
) -> tuple[State, Epoch]:
    """Train for an epoch, take its pruning step, and evaluate the result."""
    started = time.perf_counter()
    train_loss = trainer.run_epoch(state.epoch + 1, batch_size)
    seconds = time.perf_counter() - started
    pruned, measured = end_epoch(trainer, read, pruning, state, epochs, train_loss, seconds)
    moments = copy.deepcopy(trainer.optim.get_state())
    epoch, buffers = measured.step.epoch, trainer.buffers()
    return State(epoch, pruned.weights, pruned.masks, buffers, moments, pruned.log_bf), measured


def end_epoch(
    trainer: Parameters,
    read: Sources,
    pruning: Pruning,
    state: State,
    epochs: int,
    train_loss: float,
    seconds: float,
) -> tuple[PruneState, Epoch]:
    """Take the pruning step at the end of an epoch, and evaluate the result.

    Args:
        trainer: the parameters, which the step changes.
        read: the data of decisions and of the evaluation.
        pruning: how to prune.
        state: the state before the epoch.
        epochs: number of epochs of the training.
        train_loss: mean loss of the epoch, nats an example.
        seconds: duration of the epoch's training.
    """
    model, epoch, temperature = trainer.model, state.epoch + 1, trainer.temperature
    started = time.perf_counter()
    if trainer.frozen_sites:
        sample = random_sample(read.decisions, random_stream(trainer.seed, "evidence", epoch))
        _set_scales(trainer, sample, state.masks, temperature)
    pruned, record = prune_step(
        model,
        PruneState(trainer.weights(), state.masks, state.log_bf),
        read.decisions,
        pruning,
        epoch=epoch,
        epochs=epochs,
        generator=random_stream(trainer.seed, "pruning", epoch),
        temperature=temperature,
    )
    warn_of_empty_sites(state.masks, pruned.masks, f"after the step of epoch {epoch}")
    trainer.project(pruned.masks, persist=not pruning.regrow)
    if record.decision == "pruned" and pruning.update == "condition":
        trainer.move(pruned.weights)
    trainer.round_parameters()
    times = seconds, time.perf_counter() - started
    held_out = *_held_out(model, pruned, read.validation), *_held_out(model, pruned, read.test)
    norm = math.nan
    if epoch == epochs:
        point, masks = pruned.weights, pruned.masks
        norm = gradient_norm(model, point, masks, read.decisions, temperature=temperature)
    measured = (record, train_loss, *held_out, *times, temperature, norm)
    return pruned, Epoch(*measured, trainer.score)


def _set_scales(trainer: Parameters, sample: Pair, masks: Masks, temperature: float) -> None:
    """Move the scales of `priors.evidence_normal` one step towards the largest evidence."""
    model, weights = cast(BayesianModule, trainer.model), trainer.weights()
    scales = evidence_scales(model, weights, sample, masks, temperature=temperature)
    for site in trainer.frozen_sites:
        trainer.set(site, scales[site.removesuffix("_scale")])


def _warn_if_nothing_prunable(names: list[str], pruning: Pruning) -> None:
    """Warn if weights should be pruned but no site is prunable, for example in this scope."""
    if not names and pruning.sparsity != 0:
        message = (
            f"nothing is pruned: with scope {pruning.scope!r} and sites {pruning.sites} the model "
            f"has no prunable site"
        )
        warnings.warn(message, RuntimeWarning, stacklevel=3)


def _check_initial(
    model: Model, sites: ModelSites, initial: Mapping[str, Tensor] | None, state: State | None
) -> None:
    if state is not None and initial is not None:
        raise ValueError("give initial_weights or state, not both")
    if state is not None:
        check_weights(model, sites, state.weights)
    elif initial is not None:
        module = network(model)
        constants = module.constants() if isinstance(module, BayesianModule) else {}
        unknown = set(initial) - set(sites.latent) - set(constants)
        if unknown:
            raise ValueError(f"initial_weights for unknown sites {sorted(unknown)}")
        filled = {n: initial.get(n, site["value"]) for n, site in sites.latent.items()}
        check_weights(model, sites, filled)
        for name, value in filled.items():
            check_finite(f"initial_weights of {name!r}", value)


def _held_out(model: Model, state: PruneState, data: Data | None) -> tuple[float, float]:
    if data is None:
        return math.nan, math.nan
    return held_out_loss(model, state.weights, data)
