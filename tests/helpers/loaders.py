"""The same examples in all forms that are accepted, and networks with several inputs."""

from types import SimpleNamespace

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Rows(Dataset):
    """A torch data set of single examples as arrays, optionally augmented by noise."""

    def __init__(self, x, y, noise=0.0):
        self.x, self.y, self.noise = x, y, noise

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return (self.x[i] + self.noise * torch.randn(self.x[i].shape)).numpy(), self.y[i].item()


class Stream:
    """Batches without a data set, which can be read again and again."""

    def __init__(self, x, y, size=7):
        self.batches = list(zip(x.split(size), y.split(size), strict=True))

    def __iter__(self):
        return iter(self.batches)


class TwoInputs(nn.Module):
    """Two inputs, each with a layer of its own."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(3, 5), nn.Linear(2, 5)
        self.out = nn.Linear(5, 3)

    def forward(self, a, b):
        return self.out(torch.tanh(self.left(a) + self.right(b)))


class Tokens(nn.Module):
    """Named inputs of integers and reals, and a result with `logits`, as of a language model."""

    def __init__(self):
        super().__init__()
        self.embedding, self.out = nn.Embedding(7, 5), nn.Linear(5, 3)

    def forward(self, ids, mask):
        hidden = (self.embedding(ids) * mask[..., None]).mean(1)
        return SimpleNamespace(logits=self.out(torch.tanh(hidden)), hidden=hidden)


def forms(x, y):
    """The same examples as arrays, a data set, and loaders."""
    return {
        "arrays": (x.double().numpy(), y.numpy()),
        "data set": Rows(x, y),
        "loader": DataLoader(Rows(x, y), batch_size=11),
        "shuffled loader": DataLoader(Rows(x, y), batch_size=11, shuffle=True),
        "list": list(Stream(x, y)),
        "stream": Stream(x, y),
    }
