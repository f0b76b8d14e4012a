"""MAP training by SVI with AutoDelta, one pruning step at the end of each epoch."""

import copy
import math
import time
import warnings
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import cast, get_args

import torch
from pyro.optim import PyroOptim
from torch import Tensor

from pyro_bayesprune._utils.calls import suggests_names
from pyro_bayesprune._utils.checks import check_finite, positive
from pyro_bayesprune._utils.process import memory_kept, one_at_a_time
from pyro_bayesprune._utils.random import random_stream
from pyro_bayesprune.data.dataset import Dataset, Pair, random_sample, train_part
from pyro_bayesprune.inference.evidence import evidence_scales
from pyro_bayesprune.inference.mode import gradient_norm
from pyro_bayesprune.inference.prediction import held_out_loss
from pyro_bayesprune.models.copying import copied
from pyro_bayesprune.models.module import BayesianModule, Masks, Model, network, training_mode
from pyro_bayesprune.models.priors import EVIDENCE
from pyro_bayesprune.models.refusals import check_modules
from pyro_bayesprune.models.sites import (
    ModelSites,
    check_num_data,
    check_targets,
    check_weights,
    inspect_model,
)
from pyro_bayesprune.pruning.prunable import prunable_sites
from pyro_bayesprune.pruning.record import PruneState
from pyro_bayesprune.pruning.registry import Objective
from pyro_bayesprune.pruning.settings import Pruning
from pyro_bayesprune.pruning.step import prune_step
from pyro_bayesprune.training.optimizer import adam
from pyro_bayesprune.training.state import Epoch, State
from pyro_bayesprune.training.trainer import Trainer

UNPRUNED = Pruning(sparsity=0.0)


def _checked(
    model: Model, data: Dataset, epochs: int, batch_size: int, objective: str, temp: float
) -> ModelSites:
    for name, value in {"epochs": epochs, "batch_size": batch_size}.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")
    if objective not in get_args(Objective):
        raise ValueError(f"objective must be 'map' or 'mle', got {objective!r}")
    positive("temperature", temp)
    x, y = data.train_x, data.train_y
    sites = inspect_model(model, x, y)
    check_num_data(sites, len(x))
    if len(sites.observed) != 1:
        raise ValueError(f"training needs one observed site, the model has {list(sites.observed)}")
    parts = {"train": y, "validation": data.validation_y, "test": data.test_y}
    for part, targets in parts.items():
        if targets is not None:
            check_targets(sites, targets, part)
    check_modules(model, x, y, batch_size)
    return sites


@suggests_names
def train(
    model: Model,
    data: Dataset | Pair,
    *,
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
) -> Generator[tuple[State, Epoch]]:
    """Train to the MAP and prune at the end of each epoch; yield after each epoch.

    The argument ``model`` is never changed. Initial values, data order, dropout and pruning have
    separate random streams, so that all methods with one seed share them. With the same machine,
    versions and number of threads, a seed gives the same numbers bit for bit.

    Args:
        model: a Pyro model called as ``model(x, y)`` with a plate ``data``.
        data: a `Dataset` or a pair. Its training part decides; its validation part is measured.
        pruning: how to prune; None trains without pruning.
        epochs: total number of passes over the data, including those of ``state``.
        batch_size: examples of a training step.
        optim: any `pyro.optim` optimiser; by default Adam of learning rate 0.001 that falls to
            zero over the last 40% of the epochs. A schedule takes one step after each epoch.
        objective: ``"map"``: −(log likelihood + log prior)/N; ``"mle"``: −log likelihood/N.
        temperature: divides the log likelihood, in training and in decisions (cold posteriors).
        seed: seed of all random streams.
        initial_weights: values for some or all sites; a `BayesianModule` starts from its module's.
        state: state from which to continue.
        device: device of the computation; by default that of the data.

    Raises:
        ValueError: if an argument is invalid; the message names it.
        TrainingDiverged: if a loss is not finite.

    Warns:
        RuntimeWarning: if a step prunes all weights of a site (recorded as a sparsity of 1).
    """
    pruning = pruning or UNPRUNED
    optim = optim or adam(1e-3, epochs, annealing=True)
    _check_kind("pruning", pruning, Pruning)
    _check_kind("optim", optim, PyroOptim)
    with _alone():
        data, model = _on_device(data, model, device)
        sites = _checked(model, data, epochs, batch_size, objective, temperature)
        _check_initial(model, sites, initial_weights, state)
        trainer = Trainer(
            model,
            data.train_x,
            data.train_y,
            initial_weights=state.weights if state else initial_weights or {},
            optim=optim,
            objective=objective,
            temperature=temperature,
            seed=seed,
        )
        trainer.freeze(name for name, site in sites.latent.items() if site["infer"].get(EVIDENCE))
        if state is None:
            names = prunable_sites(model, sites, pruning.sites, data.train_x, pruning.scope)
            _warn_if_nothing_prunable(names, pruning)
            masks = {n: torch.ones_like(trainer.params[n], dtype=torch.bool) for n in names}
            state = State(0, {}, masks, {}, {}, None)
        else:
            _continue(trainer, state, pruning)
    for _ in range(state.epoch, epochs):
        with _alone(), memory_kept():
            state, measured = _one_epoch(trainer, data, pruning, state, epochs, batch_size)
        yield state, measured


@contextmanager
def _alone() -> Iterator[None]:
    """Enable gradients, whatever the caller's mode, and exclude other threads."""
    with one_at_a_time(), torch.inference_mode(False), torch.enable_grad():
        yield


def _continue(trainer: Trainer, state: State, pruning: Pruning) -> None:
    if state.optimizer:
        trainer.optim.set_state(state.optimizer)
    trainer.restore(state.buffers)
    trainer.project(state.masks, persist=not pruning.regrow)


def _one_epoch(
    trainer: Trainer, data: Dataset, pruning: Pruning, state: State, epochs: int, batch_size: int
) -> tuple[State, Epoch]:
    """Train for an epoch, take its pruning step, and evaluate the result."""
    model, epoch, temperature = trainer.model, state.epoch + 1, trainer.elbo.temperature
    started = time.perf_counter()
    train_loss = trainer.run_epoch(epoch, batch_size)
    trained = time.perf_counter()
    if trainer.frozen_sites:
        sample = random_sample(data, random_stream(trainer.seed, "evidence", epoch))
        _set_scales(trainer, sample, state.masks, temperature)
    pruned, record = prune_step(
        model,
        PruneState(trainer.weights(), state.masks, state.log_bf),
        data,
        pruning,
        epoch=epoch,
        epochs=epochs,
        generator=random_stream(trainer.seed, "pruning", epoch),
        temperature=temperature,
    )
    _warn_of_empty_layers(epoch, state.masks, pruned.masks)
    trainer.project(pruned.masks, persist=not pruning.regrow)
    if record.decision == "pruned" and pruning.update == "condition":
        trainer.move(pruned.weights)
    trainer.round_parameters()
    times = trained - started, time.perf_counter() - trained
    held_out = (
        *_held_out(model, pruned, data.validation_x, data.validation_y),
        *_held_out(model, pruned, data.test_x, data.test_y),
    )
    norm = math.nan
    if epoch == epochs:
        point, masks = pruned.weights, pruned.masks
        norm = gradient_norm(model, point, masks, data, temperature=temperature)
    moments = copy.deepcopy(trainer.optim.get_state())
    return (
        State(epoch, pruned.weights, pruned.masks, trainer.buffers(), moments, pruned.log_bf),
        Epoch(record, train_loss, *held_out, *times, temperature, norm, trainer.score),
    )


def _set_scales(trainer: Trainer, sample: Pair, masks: Masks, temperature: float) -> None:
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


def _warn_of_empty_layers(epoch: int, before: Masks, after: Masks) -> None:
    """Warn of a site without weights. It is allowed, because the paper has such collapses."""
    empty = [name for name, mask in after.items() if not mask.any() and before[name].any()]
    if empty:
        message = f"no weight of {', '.join(empty)} is left after the step of epoch {epoch}"
        warnings.warn(message, RuntimeWarning, stacklevel=2)


def _check_kind(name: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        hint = f" {value!r}: write {name}={kind.__name__}({value!r})" if kind is Pruning else ""
        text = hint if isinstance(value, str) else ""
        raise ValueError(f"{name} must be a {kind.__name__}, got {type(value).__name__}{text}")


def _on_device(
    data: Dataset | Pair, model: Model, device: str | torch.device | None
) -> tuple[Dataset, Model]:
    """Return the data, and a copy of the model in training mode, on the device."""
    if not isinstance(data, Dataset):
        data = Dataset(*train_part(data))
    if device is not None:
        data = data.to(device)
    module = network(model := copied(model))  # functions are not copied
    if module is not None:
        module.to(data.train_x.device)
    training_mode(model)
    return data, model


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


def _held_out(
    model: Model, state: PruneState, x: Tensor | None, y: Tensor | None
) -> tuple[float, float]:
    if x is None or y is None:
        return math.nan, math.nan
    return held_out_loss(model, state.weights, x, y)
