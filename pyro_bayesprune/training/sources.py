"""What a training reads: its batches, the data of its decisions, and held-out parts."""

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_bayesprune.data.batches import Batches, TensorBatches
from pyro_bayesprune.data.dataset import Dataset, Pair
from pyro_bayesprune.data.loading import Data, as_batches
from pyro_bayesprune.models.copying import copied
from pyro_bayesprune.models.module import Model, network, training_mode


class Sources(NamedTuple):
    """What a training reads.

    Args:
        train: the training examples.
        decisions: the data of pruning decisions.
        dataset: the data set in memory, if there is one.
        validation: data that are evaluated after each epoch.
        test: data that are evaluated after each epoch.
    """

    train: Batches
    decisions: Data
    dataset: Dataset | None = None
    validation: Data | None = None
    test: Data | None = None


def on_device(
    data: Data, decide_on: Data | None, model: Model, device: str | torch.device | None
) -> tuple[Sources, Model]:
    """Return the data, and a copy of the model in training mode, on the device."""
    module = network(model := copied(model))  # functions are not copied
    weight = next(iter(module.parameters()), None) if module is not None else None
    like = torch.empty(0) if weight is None else weight.detach().new_empty(0)
    like = like if device is None else like.to(device)
    if isinstance(data, Dataset) and device is not None:
        data = data.to(device)
    train = _placed(data, like, device)
    dataset = None
    if isinstance(train, TensorBatches):  # criteria of the user's get a data set
        dataset = data if isinstance(data, Dataset) else Dataset(train.x, train.y)
    decisions: Data = dataset or train
    if decide_on is not None:
        decisions = _placed(decide_on, like.to(train.device), train.device)
    if module is not None:
        module.to(train.device)
    training_mode(model)
    held_out = (held_out_part(dataset, part) for part in ("validation", "test"))
    return Sources(train, decisions, dataset, *held_out), model


def held_out_part(dataset: Dataset | None, part: str) -> Pair | None:
    """Return the validation or test part of a data set, or None if there is none."""
    x, y = (getattr(dataset, f"{part}_{name}", None) for name in "xy")
    return None if x is None or y is None else (x, y)


def _placed(data: Data, like: Tensor, device: str | torch.device | None) -> Batches:
    batches = as_batches(data, like=like)
    if isinstance(batches, TensorBatches) and device is not None:
        return batches.to(device)
    return batches
