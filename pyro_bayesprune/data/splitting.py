"""Conversion of raw images to a `Dataset`: a stratified validation part, and normalisation."""

from collections.abc import Mapping

import torch
from torch import Tensor

from pyro_bayesprune._utils.random import random_stream
from pyro_bayesprune.data.dataset import Dataset

SMALL = 5  # number of examples; rounding changes a larger number by at most 10%
ROWS = 512  # number of images converted at a time, so that they fit into a processor's cache


def held_out(labels: Tensor, share: float, seed: int) -> Tensor:
    """Return a bool tensor (n,) that is True at a stratified ``share`` of each class's examples.

    At least one example of each class remains for training. If the share of a class is less than
    `SMALL` examples, its rounding error is added to the next such class. The total share is thus
    correct also for many small classes.
    """
    generator = random_stream(seed, "validation")
    marked = torch.zeros(len(labels), dtype=torch.bool, device="cpu")
    rounding_error = 0.0
    for label in labels.unique():
        members = (labels == label).nonzero().squeeze(1)
        target = share * len(members) + rounding_error
        count = max(0, min(round(target), len(members) - 1))
        rounding_error = target - count if target < SMALL else 0.0
        chosen = torch.randperm(len(members), generator=generator, device="cpu")[:count]
        marked[members[chosen]] = True
    return marked


def split(
    tensors: Mapping[str, Tensor], *, validation: float = 0.1, seed: int = 0, name: str = "data"
) -> Dataset:
    """Return the `Dataset` of raw uint8 images, with a validation part and normalised inputs.

    Every channel has zero mean and unit variance over the training images that are not in the
    validation part. The images are not changed in any other way.

    Args:
        tensors: ``train_images`` uint8 (n, c, h, w), ``train_labels`` int64 (n,), ``test_images``,
            ``test_labels``.
        validation: share of the training examples in the validation part; 0 for no such part.
        seed: selects the examples of the validation part.
        name: name of the data set.

    Raises:
        ValueError: if ``validation`` is not in [0, 1).
    """
    if not 0 <= validation < 1:
        raise ValueError(f"validation must be in [0, 1), got {validation}")
    images, labels = tensors["train_images"], tensors["train_labels"]
    in_validation = held_out(labels, validation, seed)
    train_rows, validation_rows = (~in_validation).nonzero()[:, 0], in_validation.nonzero()[:, 0]
    mean, std = _channel_statistics(images, train_rows)

    def part(images: Tensor, labels: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        return _normalised(images, rows, mean, std), labels[rows]

    train_x, train_y = part(images, labels, train_rows)
    validation_x, validation_y = None, None
    if len(validation_rows):
        validation_x, validation_y = part(images, labels, validation_rows)
    test = tensors["test_images"], tensors["test_labels"]
    test_x, test_y = part(*test, torch.arange(len(test[1]), device="cpu"))
    return Dataset(train_x, train_y, validation_x, validation_y, test_x, test_y, name=name)


def _channel_statistics(images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and standard deviation of each channel over ``rows``, (c, 1, 1)."""
    counts = torch.zeros(images.shape[1], 256, dtype=torch.float64, device="cpu")
    for chosen in rows.split(ROWS):
        for channel, pixels in enumerate(images[chosen].transpose(0, 1)):
            counts[channel] += torch.bincount(pixels.flatten(), minlength=256)
    weights = counts / counts.sum(1, keepdim=True)
    values = torch.arange(256, dtype=torch.float64, device="cpu")
    mean = weights @ values
    std = (weights * (values - mean[:, None]).square()).sum(1).sqrt()
    std[std == 0] = 1  # a channel of one colour is only centred
    dtype = torch.get_default_dtype()
    return mean.to(dtype)[:, None, None], std.to(dtype)[:, None, None]


def _normalised(images: Tensor, rows: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return the normalised images at ``rows``, converted in parts to save memory."""
    values = torch.empty(len(rows), *images.shape[1:], device="cpu")
    for some, chosen in zip(values.split(ROWS), rows.split(ROWS), strict=True):
        some.copy_(images[chosen]).sub_(mean).div_(std)
    return values
