"""A plain training loop with a `Pruner`, on the batches of `fit`."""

import copy

import torch
from torch.nn.functional import cross_entropy

import pyro_bayesprune as bp
from pyro_bayesprune._utils.random import random_stream, seeded


def order(data, epoch, batch_size, seed=0):
    """The batches of an epoch in `fit`."""
    stream = random_stream(seed, "order", epoch)
    return torch.randperm(data.num_train, generator=stream).split(batch_size)


def loop(net, data, make_optimizer, *, prior, pruning, epochs=3, batch_size=10, **options):
    """Train a copy of a network with a pruner attached; return the pruner."""
    net = copy.deepcopy(net).train()
    pruner = bp.Pruner(net, prior, data.num_train, pruning=pruning, epochs=epochs, **options)
    optimizer = make_optimizer([*net.parameters(), *pruner.hyperparameters()])
    pruner.attach(optimizer)
    for epoch in range(1, epochs + 1):
        with seeded(0, "noise", epoch):
            for batch in order(data, epoch, batch_size):
                loss = cross_entropy(net(data.train_x[batch]), data.train_y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        pruner.step(data)
    return pruner
