"""Measures of predictions (accuracy, likelihood, calibration) and of a network's size."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_bayesprune.models.module import evaluation_mode


def accuracy(probabilities: Tensor, labels: Tensor) -> float:
    """Return the share of labels that are the most probable class.

    Args:
        probabilities: class probabilities (n, ..., classes).
        labels: classes (n, ...).
    """
    return (probabilities.argmax(-1).cpu() == labels.cpu()).double().mean().item()


def sparsity(masks: Mapping[str, Tensor]) -> float:
    """Return the share of the prunable weights that ``masks`` remove."""
    total = sum(mask.numel() for mask in masks.values())
    surviving = sum(int(mask.sum()) for mask in masks.values())
    return 1 - surviving / total if total else 0.0


def layer_sparsity(masks: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the share of pruned weights of each site."""
    return {name: sparsity({name: mask}) for name, mask in masks.items()}


def sizes(parameters: int, masks: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the size of a pruned network, by the names of a run's metrics.

    Args:
        parameters: number of the network's parameters, prunable or not.
        masks: masks of the prunable weights.
    """
    layers = layer_sparsity(masks)
    left = parameters - sum(int((~mask).sum()) for mask in masks.values())
    return {
        "achieved_sparsity": sparsity(masks),
        "parameters": parameters,
        "prunable": sum(mask.numel() for mask in masks.values()),
        "compression_ratio": parameters / left if left else math.inf,
        "layer_sparsity": layers,
        "collapsed_layers": [name for name, share in layers.items() if share == 1],
    }


def negative_log_likelihood(probabilities: Tensor, labels: Tensor) -> float:
    """Return the mean negative log probability of all labels of an example, nats an example."""
    labels = labels.long()  # those of a Bernoulli are 0. and 1.
    chosen = probabilities.double().gather(-1, labels[..., None])
    log = chosen.clamp_min(torch.finfo(torch.float64).tiny).log()
    return -log.sum().item() / len(log) if log.dim() > 2 else -log.mean().item()


def brier(probabilities: Tensor, labels: Tensor) -> float:
    """Return the mean squared distance of the probabilities from the one-hot labels (0 to 2)."""
    truth = torch.nn.functional.one_hot(labels.long(), probabilities.shape[-1])
    return (probabilities.double() - truth).square().sum(-1).mean().item()


def confidence_bins(
    probabilities: Tensor, labels: Tensor, bins: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return bin, confidence and correctness (0 or 1) of each label (n,), on the CPU.

    Args:
        probabilities: class probabilities (n, ..., classes).
        labels: classes (n, ...).
        bins: number of bins of equal width in (0, 1].
    """
    confidence, predicted = probabilities.cpu().double().flatten(0, -2).max(-1)
    index = (confidence * bins).ceil().clamp(1, bins).long() - 1
    return index, confidence, (predicted == labels.cpu().flatten()).double()


def expected_calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Return the expected calibration error of the most probable class (Guo et al., 2017).

    The bins are those of `confidence_bins`.
    """
    index, confidence, correct = confidence_bins(probabilities, labels, bins)
    gaps = correct - confidence
    sums = torch.zeros(bins, dtype=torch.float64, device="cpu").index_add_(0, index, gaps)
    return sums.abs().sum().item() / len(gaps)


def dead_units(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the number of units without a nonzero incoming weight, for each prunable layer.

    The first dimension of a weight counts units, as in Linear and Conv layers. Sites of one
    dimension, such as biases, have no incoming weights.
    """
    layers = {n: weights[n].flatten(1) for n in masks if weights[n].dim() > 1}
    return {n: int((rows == 0).all(1).sum()) for n, rows in layers.items()}


def layer_flops(net: nn.Module, shape: Sequence[int]) -> dict[str, int]:
    """Return multiply-adds of a forward pass of one input, by parameter name (torch's counter).

    Args:
        net: a layer with weights, or a module of named layers.
        shape: shape of one input.

    Raises:
        ValueError: for matrices that are no ``weight`` of a layer, as in recurrent layers.
    """
    from torch.utils.flop_counter import FlopCounterMode

    like = next(net.parameters())
    inputs = torch.zeros(1, *shape, dtype=like.dtype, device=like.device)
    with evaluation_mode(net), FlopCounterMode(display=False) as counter, torch.no_grad():
        net(inputs)
    root, counts = type(net).__name__, counter.get_flop_counts()
    names = {id(p): name for name, p in net.named_parameters()}  # tied weights have one name
    flops: dict[str, int] = {}
    for layer, part in net.named_modules():
        name = names.get(id(getattr(part, "weight", None)))
        operations = counts.get(f"{root}.{layer}".rstrip("."), {})
        if name is not None:
            flops[name] = flops.get(name, 0) + sum(operations.values()) // 2
    if others := [n for n, p in net.named_parameters() if p.dim() > 1 and n not in flops]:
        raise ValueError(f"multiply-adds are known of the weights of layers, not of {others[0]!r}")
    return flops


def theoretical_speedup(flops: Mapping[str, int], masks: Mapping[str, Tensor]) -> float:
    """Return multiply-adds before pruning, divided by those of the surviving weights."""
    surviving = {n: 1 - sparsity({n: masks[n]}) if n in masks else 1.0 for n in flops}
    after = sum(count * surviving[name] for name, count in flops.items())
    return sum(flops.values()) / after if after else float("inf")
