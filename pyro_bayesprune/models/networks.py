"""The paper's networks and LeCun's, as ordinary PyTorch modules."""

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn


def _dense_stack(inputs: int, hidden: Sequence[int], outputs: int) -> OrderedDict[str, nn.Module]:
    widths = [inputs, *hidden]
    if min(*widths, outputs) < 1:
        raise ValueError(f"a layer's width must be positive, got {[*widths, outputs]}")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (n, m) in enumerate(zip(widths, widths[1:], strict=False), start=1):
        layers[f"fc{i}"] = nn.Linear(n, m)
        layers[f"relu_fc{i}"] = nn.ReLU()
    layers[f"fc{len(widths)}"] = nn.Linear(widths[-1], outputs)
    return layers


def _convolutional_stack(
    shape: Sequence[int],
    channels: Sequence[int],
    kernel: int,
    padding: int,
    hidden: Sequence[int],
    outputs: int,
) -> OrderedDict[str, nn.Module]:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    sides = shape[1:]
    for i, (n, m) in enumerate(zip([shape[0], *channels], channels, strict=False), start=1):
        layers[f"conv{i}"] = nn.Conv2d(n, m, kernel, padding=padding)
        # Pooling before ReLU gives the same values and gradients with a quarter of the work.
        layers[f"pool{i}"] = nn.MaxPool2d(2)
        layers[f"relu_conv{i}"] = nn.ReLU()
        sides = [(side + 2 * padding - kernel + 1) // 2 for side in sides]
    layers["flatten"] = nn.Flatten()
    return layers | _dense_stack(channels[-1] * math.prod(sides), hidden, outputs)


class FCN(nn.Sequential):
    """Fully connected ReLU network (paper, equation 1): ``(n, *shape)`` → logits (n, classes).

    Args:
        shape: shape of one input, e.g. (1, 28, 28); it is flattened.
        num_classes: number of outputs.
        hidden: widths of the hidden layers.

    Raises:
        ValueError: for a width of zero or less.
    """

    def __init__(
        self, shape: Sequence[int], num_classes: int, hidden: Sequence[int] = (512, 512, 512)
    ) -> None:
        layers = _dense_stack(math.prod(shape), hidden, num_classes)
        super().__init__(OrderedDict(flatten=nn.Flatten()) | layers)


def lenet_300_100(shape: Sequence[int], num_classes: int) -> FCN:
    """Return LeNet-300-100 (LeCun et al., 1998): an `FCN` of hidden widths 300 and 100."""
    return FCN(shape, num_classes, (300, 100))


class CNN(nn.Sequential):
    """Two 3x3 convolutions with ReLU and 2x2 max pooling, then the dense stack (paper, equation 2).

    Inputs (n, channels, height, width) → logits (n, classes). Parameters are stored in
    ``channels_last`` layout, which halves the time of convolutions on a CPU.

    Args:
        shape: shape of one image (channels, height, width), at least 4x4 pixels.
        num_classes: number of outputs.
        channels: outputs of the two convolutions.
        hidden: widths of the hidden dense layers.

    Raises:
        ValueError: for an image that is too small to be pooled twice, or a width of zero or less.
    """

    def __init__(
        self,
        shape: Sequence[int],
        num_classes: int,
        channels: Sequence[int] = (32, 64),
        hidden: Sequence[int] = (512, 512, 512),
    ) -> None:
        if len(shape) != 3 or min(shape[1:]) < 4:
            raise ValueError(f"CNN needs (channels, height>=4, width>=4), got {tuple(shape)}")
        if min(channels) < 1:
            raise ValueError(f"channels must be positive, got {tuple(channels)}")
        super().__init__(_convolutional_stack(shape, channels, 3, 1, hidden, num_classes))
        self.to(memory_format=torch.channels_last)


class LeNet5(nn.Sequential):
    """LeNet-5 as pruning papers use it: 5x5 convolutions without padding, max pooling, ReLU.

    Inputs (n, channels, height, width) → logits (n, classes): 20 and 50 filters and 500 hidden
    units, 430,500 weights for 28x28 images and 10 classes (LeCun et al., 1998, in Caffe's version).

    Args:
        shape: shape of one image (channels, height, width), at least 16x16 pixels.
        num_classes: number of outputs.

    Raises:
        ValueError: for an image that is too small.
    """

    def __init__(self, shape: Sequence[int], num_classes: int) -> None:
        if len(shape) != 3 or min(shape[1:]) < 16:
            raise ValueError(f"LeNet5 needs (channels, height>=16, width>=16), got {tuple(shape)}")
        super().__init__(_convolutional_stack(shape, (20, 50), 5, 0, (500,), num_classes))
        self.to(memory_format=torch.channels_last)
