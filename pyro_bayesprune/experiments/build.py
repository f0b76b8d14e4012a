"""From a configuration to its data, model, and trainings."""

import copy
from collections.abc import Callable, Generator, Sequence
from dataclasses import fields, replace
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pyro_bayesprune._utils.random import random_stream, seeded
from pyro_bayesprune.data.builtin import load_dataset
from pyro_bayesprune.data.dataset import Dataset
from pyro_bayesprune.experiments.config import Config
from pyro_bayesprune.models.module import BayesianModule
from pyro_bayesprune.pruning.masks import apply_masks
from pyro_bayesprune.pruning.registry import DATASETS, NETWORKS, PRIORS, SCHEDULES, resolve
from pyro_bayesprune.pruning.settings import Pruning
from pyro_bayesprune.training.loop import train
from pyro_bayesprune.training.optimizer import adam
from pyro_bayesprune.training.state import Epoch, State

PRUNING_FIELDS = [f.name for f in fields(Pruning) if f.name in Config.__dataclass_fields__]


def _made(function: Callable[..., Any], *args: object, **settings: object) -> Any:  # noqa: ANN401
    """Call a function of the registry with those of the settings that it takes."""
    taken = signature(function).parameters
    return function(*args, **{name: v for name, v in settings.items() if name in taken})


def check_device(device: str) -> torch.device:
    """Return a device.

    Raises:
        ValueError: if there is no such device here.
    """
    try:
        found = torch.device(device)
        torch.ones(1, device=found).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {device!r} cannot be used here: {reason}") from None
    return found


def build_data(config: Config, data_dir: str | Path | None = None) -> Dataset:
    """Return the data set of a configuration."""
    load = resolve(DATASETS, config.dataset) if config.dataset in DATASETS else load_dataset
    return load(config.dataset, data_dir, validation=config.validation, seed=config.data_seed)


def build_model(
    config: Config, shape: Sequence[int], num_classes: int, num_data: int
) -> BayesianModule:
    """Return the model of a configuration, with the initial weights of its seed."""
    with seeded(config.seed, "network"):
        net = _network(config, shape, num_classes)
    scale = config.prior_scale
    prior = _made(resolve(PRIORS, config.prior), scale=scale, gain=scale, df=config.prior_df)
    return BayesianModule(net, prior, num_data)


def _network(config: Config, shape: Sequence[int], num_classes: int) -> nn.Module:
    build = resolve(NETWORKS, config.network)
    return _made(build, shape, num_classes, hidden=config.hidden, channels=config.channels)


def epochs_of(
    config: Config,
    model: BayesianModule,
    data: Dataset,
    *,
    epochs: int,
    state: State | None = None,
    device: str | torch.device = "cpu",
) -> Generator[tuple[State, Epoch]]:
    """Train as configured, from the beginning or from a state; yields after each epoch."""
    pruning = Pruning(**{name: getattr(config, name) for name in PRUNING_FIELDS})
    before = max(0, epochs - config.epochs)  # earlier trainings; schedules start anew after them
    schedule = resolve(SCHEDULES, config.schedule)
    return train(
        model,
        data,
        pruning=replace(pruning, schedule=lambda e, n, s: schedule(e - before, n - before, s)),
        epochs=epochs,
        batch_size=config.batch_size,
        optim=adam(config.learning_rate, config.epochs, annealing=config.annealing),
        objective=config.objective,
        temperature=config.temperature,
        seed=config.seed,
        state=state,
        device=device,
    )


def trainings(config: Config) -> list[Config]:
    """Return what a run trains one after the other.

    Without a restart, one training that prunes. Else ``rounds`` that do, each removing the same
    share of what is left, and then one under the final masks (Frankle & Carbin, 2019).
    """
    if config.restart == "no":
        return [config]
    earlier = range(1, config.rounds)  # none where the sparsity is "auto"
    shares = [1 - (1 - float(config.sparsity)) ** (r / config.rounds) for r in earlier]
    return [replace(config, sparsity=share) for share in (*shares, config.sparsity, 0.0)]


def restarted(
    config: Config, state: State, model: BayesianModule, data: Dataset, early: State | None = None
) -> State:
    """Return the state from which a run's next training starts (``restart``).

    The masks stay (``shuffle``: shuffled within each layer); weights and buffers are those of the
    beginning, of an ``early`` state, or fresh ones (``reinitialise``); the optimiser starts anew.
    """
    masks = dict(state.masks)
    if config.restart == "shuffle":
        generator = random_stream(config.seed, "shuffle")
        for name, mask in masks.items():
            order = torch.randperm(mask.numel(), generator=generator).to(mask.device)
            masks[name] = mask.flatten()[order].view(mask.shape)
    if config.restart == "reinitialise":
        with seeded(config.seed, "reinitialise"):
            model = copy.deepcopy(model)
            model.net = _network(config, data.shape, data.num_classes)
    first = {n: p.detach().to(state.weights[n].device) for n, p in model.net.named_parameters()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    if early is not None:
        first, buffers = early.weights, early.buffers
    weights = apply_masks(state.weights | first, masks)
    return State(state.epoch, weights, masks, buffers, {}, None)
