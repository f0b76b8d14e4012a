"""The data, the model and the trainings of a configuration."""

import copy
from collections.abc import Generator, Sequence
from dataclasses import fields, replace
from pathlib import Path

import pyro.distributions as dist
import torch
from torch import nn

from pyro_bayesprune._utils.calls import call_with
from pyro_bayesprune._utils.random import random_stream, seeded
from pyro_bayesprune.data.builtin import load_dataset
from pyro_bayesprune.data.dataset import Dataset
from pyro_bayesprune.experiments.config import Config
from pyro_bayesprune.models.likelihoods import Likelihood, gaussian
from pyro_bayesprune.models.module import BayesianModule
from pyro_bayesprune.pruning.masks import apply_masks
from pyro_bayesprune.pruning.registry import (
    DATASETS,
    LIKELIHOODS,
    NETWORKS,
    PRIORS,
    SCHEDULES,
    resolve,
)
from pyro_bayesprune.pruning.settings import Pruning
from pyro_bayesprune.training.loop import train
from pyro_bayesprune.training.optimizer import adam
from pyro_bayesprune.training.state import Epoch, State

PRUNING_FIELDS = [f.name for f in fields(Pruning) if f.name in Config.__dataclass_fields__]


def build_data(config: Config, data_dir: str | Path | None = None) -> Dataset:
    """Return the data set of a configuration."""
    load = resolve(DATASETS, config.dataset) if config.dataset in DATASETS else load_dataset
    table = {"target_column": config.target_column, "likelihood": config.likelihood}
    settings = {"validation": config.validation, "seed": config.data_seed, **table}
    data = call_with(load, config.dataset, data_dir, **settings)
    return data if config.likelihood == "categorical" else _with_real_targets(data)


def _with_real_targets(data: Dataset) -> Dataset:
    """Return floating-point targets of the shape (n, outputs), as the other likelihoods need."""
    parts = {name: getattr(data, name) for name in ("train_y", "validation_y", "test_y")}
    dtype = data.train_x.dtype
    return replace(
        data, **{n: y.to(dtype).reshape(len(y), -1) for n, y in parts.items() if y is not None}
    )


def num_outputs(config: Config, data: Dataset) -> int:
    """Return the number of outputs of the network: of classes, or of targets of an example.

    Raises:
        ValueError: if the targets are no classes and the likelihood is categorical.
    """
    if config.likelihood != "categorical":
        return data.train_y.shape[1]
    if data.train_y.is_floating_point():
        raise ValueError(
            f"the targets of {config.dataset} are real numbers and no classes: choose another "
            f"likelihood, for example --likelihood gaussian"
        )
    return data.num_classes


def build_model(
    config: Config, shape: Sequence[int], outputs: int, num_data: int
) -> BayesianModule:
    """Return the model of a configuration with the initial weights of its seed."""
    with seeded(config.seed, "network"):
        net = _network(config, shape, outputs)
    scale, df = config.prior_scale, config.prior_df
    build_prior = resolve(PRIORS, config.prior)
    prior = call_with(build_prior, scale=scale, gain=scale, df=df, num_data=num_data)
    return BayesianModule(net, prior, num_data, _likelihood(config))


def _likelihood(config: Config) -> Likelihood:
    if config.likelihood != "gaussian":
        return resolve(LIKELIHOODS, config.likelihood)
    is_learnt = config.noise == "learnt"
    return gaussian(dist.LogNormal(0.0, 1.0) if is_learnt else float(config.noise))


def _network(config: Config, shape: Sequence[int], outputs: int) -> nn.Module:
    build = resolve(NETWORKS, config.network)
    return call_with(build, shape, outputs, hidden=config.hidden, channels=config.channels)


def epochs_of(
    config: Config,
    model: BayesianModule,
    data: Dataset,
    *,
    epochs: int,
    state: State | None = None,
    device: str | torch.device = "cpu",
) -> Generator[tuple[State, Epoch]]:
    """Yield state and record of each epoch; ``epochs`` includes those of previous trainings."""
    pruning = Pruning(**{name: getattr(config, name) for name in PRUNING_FIELDS})
    previous = max(0, epochs - config.epochs)
    schedule = resolve(SCHEDULES, config.schedule)
    return train(
        model,
        data,
        pruning=replace(pruning, schedule=lambda e, n, s: schedule(e - previous, n - previous, s)),
        epochs=epochs,
        batch_size=config.batch_size,
        optim=adam(config.learning_rate, config.epochs, annealing=config.annealing),
        objective=config.objective,
        temperature=config.temperature,
        seed=config.seed,
        state=state,
        device=device,
        autocast=config.autocast,
    )


def trainings(config: Config) -> list[Config]:
    """Return the configurations of the successive trainings of a run.

    Without a restart, there is one training. With a restart, ``rounds`` trainings prune, each the
    same share of the remaining weights, and a last one trains with the final masks (Frankle &
    Carbin, 2019).
    """
    if config.restart == "no":
        return [config]
    earlier = range(1, config.rounds)  # empty if the sparsity is "auto"
    shares = [1 - (1 - float(config.sparsity)) ** (r / config.rounds) for r in earlier]
    return [replace(config, sparsity=share) for share in (*shares, config.sparsity, 0.0)]


def restarted(
    config: Config, state: State, model: BayesianModule, data: Dataset, early: State | None = None
) -> State:
    """Return the initial state of the next training of a run with a restart.

    The masks are those of ``state``, for ``shuffle`` in a random order within each layer. Weights
    and buffers are the initial ones, those of the state ``early``, or, for ``reinitialise``, new
    ones. The state of the optimiser is empty.
    """
    state = state.to(torch.device("cpu"))  # the next training moves it
    masks = dict(state.masks)
    if config.restart == "shuffle":
        generator = random_stream(config.seed, "shuffle")
        for name, mask in masks.items():
            order = torch.randperm(mask.numel(), generator=generator, device="cpu")
            masks[name] = mask.flatten()[order].view(mask.shape)
    if config.restart == "reinitialise":
        with seeded(config.seed, "reinitialise"):
            model = copy.deepcopy(model)
            model.net = _network(config, data.shape, num_outputs(config, data))
    start = {name: p.detach() for name, p in model.named_weights().items()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    if early is not None:
        start, buffers = early.weights, early.buffers
    weights = apply_masks(state.weights | start, masks)
    return State(state.epoch, weights, masks, buffers, {}, None)
