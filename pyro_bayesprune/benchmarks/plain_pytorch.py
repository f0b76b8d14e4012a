"""The baseline of `bayesprune bench training`: a training loop in plain PyTorch."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


def steps(
    net: nn.Module, x: Tensor, y: Tensor, order: Tensor, batch_size: int, weight_decay: float
) -> Iterator[float]:
    """Train ``net`` with Adam on the batches of ``order``, repeatedly; yield each step's loss."""
    optimizer = torch.optim.Adam(net.parameters(), weight_decay=weight_decay, fused=True)
    while True:
        for batch in order.split(batch_size):
            loss = cross_entropy(net(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield loss.item()
