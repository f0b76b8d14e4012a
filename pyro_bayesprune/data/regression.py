"""The built-in regression data set, with standardised inputs and targets."""

import torch
from torch import Tensor

from pyro_bayesprune._utils.random import random_stream
from pyro_bayesprune.data.dataset import Dataset


def diabetes(*, validation: float = 0.1, seed: int = 0) -> Dataset:
    """Return scikit-learn's diabetes data: 442 patients, 10 inputs, one real target (n, 1).

    A fixed fifth of the patients is the test part. Inputs and targets have zero mean and unit
    variance over the training part, so that an RMSE is in units of the targets' standard deviation.

    Args:
        validation: share of the other patients in the validation part, in [0, 1).
        seed: selects the patients of the validation part.
    """
    from sklearn.datasets import load_diabetes

    if not 0 <= validation < 1:
        raise ValueError(f"validation must be in [0, 1), got {validation}")
    bunch = load_diabetes(scaled=False)
    x, y = torch.from_numpy(bunch.data), torch.from_numpy(bunch.target)[:, None]
    order = torch.randperm(len(x), generator=random_stream(0, "test"), device="cpu")
    test, rest = order[: len(x) // 5], order[len(x) // 5 :]
    stream = random_stream(seed, "validation")
    rest = rest[torch.randperm(len(rest), generator=stream, device="cpu")]
    count = round(validation * len(rest))
    held_out, train = rest[:count].sort().values, rest[count:].sort().values
    x, y = _standardised(x, train), _standardised(y, train)
    parts = [(x[rows], y[rows]) if len(rows) else (None, None) for rows in (train, held_out, test)]
    (train_x, train_y), (validation_x, validation_y), (test_x, test_y) = parts
    assert train_x is not None and train_y is not None  # `validation` is below one
    held_out_parts = (validation_x, validation_y, test_x, test_y)
    return Dataset(train_x, train_y, *held_out_parts, name="diabetes")


def _standardised(values: Tensor, rows: Tensor) -> Tensor:
    chosen = values[rows]
    return ((values - chosen.mean(0)) / chosen.std(0)).to(torch.get_default_dtype())
