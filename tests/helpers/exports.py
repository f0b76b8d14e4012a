"""Networks to export, with weights and units pruned at random."""

import torch
import torch.nn.functional as F
from torch import nn

import pyro_bayesprune as bp

SHAPE = (1, 8, 8)
CARD_FORMATS = ("safetensors", "csr", "sparse")


class OwnForward(nn.Module):
    """A chain with its own forward, with function calls, a nested part and BatchNorm."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.block = nn.Sequential(nn.Conv2d(6, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5))
        self.fc = nn.Linear(5 * 4 * 4, 9)
        self.out = nn.Linear(9, 3)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv(x)), 2)
        x = torch.sigmoid(self.block(x))
        x = F.leaky_relu(self.fc(x.view(x.size(0), -1)), 0.1)
        return self.out(F.dropout(x, training=self.training))


class Residual(nn.Module):
    """A network that is not a chain."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return x + self.fc(x)


NETWORKS = {
    "fcn": lambda: bp.FCN(SHAPE, 4, (12, 11, 10)),
    "cnn": lambda: bp.CNN(SHAPE, 4, (5, 6), (12, 11, 10)),
    "own forward": OwnForward,
    "pools": lambda: nn.Sequential(
        nn.BatchNorm2d(1),
        nn.Conv2d(1, 5, 3, stride=2, padding=1, padding_mode="reflect"),
        nn.ELU(),
        nn.AvgPool2d(2, 1, padding=1),
        nn.Conv2d(5, 6, 3, padding="same", dilation=2),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 7),
        nn.BatchNorm1d(7, affine=False),
        nn.Linear(7, 3),
        nn.Softplus(),
    ),
}


def sparsified(net, share, generator, dead=0.4):
    """Prune random weights and rows, and set random biases and statistics."""
    for layer in net.modules():
        state = layer.state_dict() if not list(layer.children()) else {}
        for name, value in state.items():
            if value.is_floating_point():
                noise = torch.randn(value.shape, generator=generator)
                value.copy_(noise.abs() + 0.1 if name == "running_var" else noise)
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            weight = layer.weight.data
            weight.mul_(torch.rand(weight.shape, generator=generator) >= share)
            weight[torch.rand(len(weight), generator=generator) < dead] = 0
        elif isinstance(layer, nn.BatchNorm2d):
            layer.weight.data[0] = 0
    return net.eval()
