"""What a training reads: its batches, the data of its decisions, and held-out parts."""

from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor

from pyro_bayesprune._utils.checks import check_choice, check_device
from pyro_bayesprune.data.batches import Batches, TensorBatches
from pyro_bayesprune.data.dataset import Dataset, Pair
from pyro_bayesprune.data.loading import Data, as_batches
from pyro_bayesprune.models.copying import copied
from pyro_bayesprune.models.module import BayesianModule, Model, network, training_mode
from pyro_bayesprune.pruning.registry import Autocast


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
    if device is not None:
        check_device(device)
    like = like.to(_device_in_memory(data) if device is None else device)
    if isinstance(data, Dataset):
        data = data.to(like.device)
    train = as_batches(data, like=like)
    dataset = None
    if isinstance(train, TensorBatches):  # criteria of the user's get a data set
        dataset = data if isinstance(data, Dataset) else Dataset(train.x, train.y)
    decisions: Data = dataset or train
    if decide_on is not None:
        decisions = as_batches(decide_on, like=like)
    if module is not None:
        module.to(like.device)
    training_mode(model)
    held_out = (held_out_part(dataset, part) for part in ("validation", "test"))
    return Sources(train, decisions, dataset, *held_out), model


def set_autocast(model: Model, autocast: Autocast) -> None:
    """Compute the outputs of a lifted network in bfloat16 in training mode, or not.

    Raises:
        ValueError: for another model.
    """
    check_choice("autocast", autocast, get_args(Autocast))
    module = network(model)
    if isinstance(module, BayesianModule):
        module.autocast = autocast == "bf16"
    elif autocast == "bf16":
        raise ValueError("autocast='bf16' needs a BayesianModule, which separates its network")


def held_out_part(dataset: Dataset | None, part: str) -> Pair | None:
    """Return the validation or test part of a data set, or None if there is none."""
    x, y = (getattr(dataset, f"{part}_{name}", None) for name in "xy")
    return None if x is None or y is None else (x, y)


def _device_in_memory(data: Data) -> torch.device | None:
    """Return the device of data in memory, to which the model goes; None for other data."""
    if isinstance(data, Dataset):
        return data.train_y.device
    if isinstance(data, TensorBatches):
        return data.device
    pair: Any = getattr(data, "tensors", data)
    is_tensor = isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[1], Tensor)
    return pair[1].device if is_tensor else None
