"""Raw images to a `Dataset`: a stratified validation part, and normalisation."""

from collections.abc import Mapping

import torch
from torch import Tensor

from pyro_bayesprune._utils.random import random_stream
from pyro_bayesprune.data.dataset import Dataset, Pair

SMALL = 5  # examples: rounding changes the share of a larger class by a tenth at most
ROWS = 512  # images converted at a time: few enough to stay in a processor's cache


def held_out(labels: Tensor, share: float, seed: int) -> Tensor:
    """Return a bool tensor (n,) that marks a stratified ``share`` of the examples of each class.

    One example of each class at least is left unmarked: no class is unknown to training. Of a class
    whose share is below `SMALL` examples, what rounding leaves over passes to the next such class,
    so that of many small classes the share is held out in all.
    """
    generator = random_stream(seed, "validation")
    marked = torch.zeros(len(labels), dtype=torch.bool, device="cpu")
    left_over = 0.0
    for label in labels.unique():
        members = (labels == label).nonzero().squeeze(1)
        due = share * len(members) + left_over
        count = max(0, min(round(due), len(members) - 1))
        left_over = due - count if due < SMALL else 0.0
        marked[members[torch.randperm(len(members), generator=generator, device="cpu")[:count]]] = (
            True
        )
    return marked


def split(
    tensors: Mapping[str, Tensor], *, validation: float = 0.1, seed: int = 0, name: str = "data"
) -> Dataset:
    """Return the `Dataset` of raw uint8 images: held-out part, normalised by training statistics.

    Every channel is scaled to zero mean and unit variance over the training images (those that are
    left after the held-out ones are taken away); nothing else is done to them.

    Args:
        tensors: ``train_images`` uint8 (n, c, h, w), ``train_labels`` int64 (n,), ``test_images``,
            ``test_labels``.
        validation: share of the training examples that is held out; 0 holds none out.
        seed: decides which are held out.
        name: what to call the data set.
    """
    if not 0 <= validation < 1:
        raise ValueError(f"validation must be in [0, 1), got {validation}")
    images, labels = tensors["train_images"], tensors["train_labels"]
    out = held_out(labels, validation, seed)
    kept, held = (~out).nonzero().squeeze(1), out.nonzero().squeeze(1)
    mean, std = _channel_statistics(images, kept)

    def part(images: Tensor, labels: Tensor, rows: Tensor) -> Pair:
        return _normalised(images, rows, mean, std), labels[rows]

    validation_x, validation_y = part(images, labels, held) if len(held) else (None, None)
    test = tensors["test_images"], tensors["test_labels"]
    test_x, test_y = part(*test, torch.arange(len(test[1]), device="cpu"))
    train_x, train_y = part(images, labels, kept)
    return Dataset(train_x, train_y, validation_x, validation_y, test_x, test_y, name=name)


def _channel_statistics(images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel over ``rows``, shaped (c, 1, 1)."""
    counts = torch.zeros(images.shape[1], 256, dtype=torch.float64, device="cpu")
    for chosen in rows.split(ROWS):
        for channel, pixels in enumerate(images[chosen].transpose(0, 1)):
            counts[channel] += torch.bincount(pixels.flatten(), minlength=256)
    weights = counts / counts.sum(1, keepdim=True)
    values = torch.arange(256, dtype=torch.float64, device="cpu")
    mean = weights @ values
    std = (weights * (values - mean[:, None]).square()).sum(1).sqrt()
    std[std == 0] = 1  # a channel of one colour: centred, not divided by zero
    dtype = torch.get_default_dtype()
    return mean.to(dtype)[:, None, None], std.to(dtype)[:, None, None]


def _normalised(images: Tensor, rows: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return the images at ``rows``, normalised; a few at a time, so that nothing is held twice."""
    values = torch.empty(len(rows), *images.shape[1:], device="cpu")
    for some, chosen in zip(values.split(ROWS), rows.split(ROWS), strict=True):
        some.copy_(images[chosen]).sub_(mean).div_(std)
    return values
