"""What tests of trainings share: short fits, optimisers, equal histories."""

import torch
from pyro.optim import SGD, Adam, AdamW, ClippedAdam, ExponentialLR, ReduceLROnPlateau

import pyro_bayesprune as bp
from helpers import TIMES, class_data, lifted, mlp

HALF = bp.Pruning("magnitude", sparsity=0.5, gate="always")

OPTIMISERS = {
    "adam": lambda: Adam({"lr": 0.01}),
    "fused": lambda: Adam({"lr": 0.01, "fused": True}),
    "amsgrad": lambda: Adam({"lr": 0.01, "amsgrad": True}),
    "adamw": lambda: AdamW({"lr": 0.01, "weight_decay": 0.1}),
    "clipped": lambda: ClippedAdam({"lr": 0.01, "lrd": 0.99, "clip_norm": 1.0}),
    "momentum": lambda: SGD({"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    "exponential": lambda: ExponentialLR(
        {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.01}, "gamma": 0.5}
    ),
    "plateau": lambda: ReduceLROnPlateau(
        {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.01}, "patience": 0}
    ),
}


def short_fit(model, data, **options):
    """A fit of four epochs that prunes half the weights."""
    options = {"pruning": HALF, "epochs": 4, "batch_size": 10, "progress": False} | options
    return bp.fit(model, data, **options)


def same_history(first, second):
    """Two histories are equal but for their times."""
    first, second = first.drop(columns=TIMES), second.drop(columns=TIMES)
    return first.reset_index(drop=True).equals(second.reset_index(drop=True))


def fresh(make=mlp, data=None, prior=None):
    """The same network for every call."""
    torch.manual_seed(0)
    return lifted(make(), data or class_data(), prior)
