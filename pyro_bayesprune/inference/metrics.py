"""Measures of predictions (accuracy, likelihood, calibration) and of a network's size."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


def accuracy(probabilities: Tensor, labels: Tensor) -> float:
    """Return the share of examples whose most probable class is the label.

    Args:
        probabilities: class probabilities (n, classes).
        labels: classes (n,).
    """
    return (probabilities.argmax(-1) == labels).double().mean().item()


def sparsity(masks: Mapping[str, Tensor]) -> float:
    """Return the share of the prunable weights that ``masks`` remove."""
    total = sum(mask.numel() for mask in masks.values())
    kept = sum(int(mask.sum()) for mask in masks.values())
    return 1 - kept / total if total else 0.0


def layer_sparsity(masks: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the share of pruned weights of each site."""
    return {name: sparsity({name: mask}) for name, mask in masks.items()}


def negative_log_likelihood(probabilities: Tensor, labels: Tensor) -> float:
    """Return the mean negative log probability of the labels, nats an example."""
    chosen = probabilities.double().gather(1, labels[:, None])
    return -chosen.clamp_min(torch.finfo(torch.float64).tiny).log().mean().item()


def brier(probabilities: Tensor, labels: Tensor) -> float:
    """Return the mean squared distance of the probabilities from the one-hot labels (0 to 2)."""
    truth = torch.nn.functional.one_hot(labels, probabilities.shape[1])
    return (probabilities.double() - truth).square().sum(1).mean().item()


def expected_calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Return the expected calibration error of the most probable class (Guo et al., 2017).

    Bins of confidence are of equal width in (0, 1]; a confidence of 1 belongs to the last one.
    """
    confidence, predicted = probabilities.double().max(-1)
    index = (confidence * bins).ceil().clamp(1, bins).long() - 1
    gaps = (predicted == labels).double() - confidence
    return torch.zeros(bins, dtype=torch.float64, device="cpu").index_add_(
        0, index, gaps
    ).abs().sum().item() / len(gaps)


def dead_units(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, int]:
    """Return for each prunable layer how many of its units have no incoming weight left."""
    return {n: int((weights[n].flatten(1) == 0).all(1).sum()) for n in masks}


def layer_flops(net: nn.Module, shape: Sequence[int]) -> dict[str, int]:
    """Return multiply-adds of a forward pass of one input, by parameter name (torch's counter).

    Args:
        net: a layer with weights, or a module of named layers.
        shape: shape of one input.
    """
    from torch.utils.flop_counter import FlopCounterMode

    like = next(net.parameters())
    inputs = torch.zeros(1, *shape, dtype=like.dtype, device=like.device)
    modes = [(module, module.training) for module in net.modules()]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net.eval()(inputs)
    for module, training in modes:
        module.training = training
    root = type(net).__name__
    counts = {name: sum(by_op.values()) for name, by_op in counter.get_flop_counts().items()}
    layers = {n: counts.get(f"{root}.{n}".rstrip("."), 0) // 2 for n, _ in net.named_modules()}
    names = dict(net.named_parameters())
    weights = {f"{n}.weight".lstrip("."): count for n, count in layers.items()}
    return {name: count for name, count in weights.items() if name in names}


def theoretical_speedup(flops: Mapping[str, int], masks: Mapping[str, Tensor]) -> float:
    """Return multiply-adds before / after: each layer's count times its share of kept weights."""
    kept = {n: 1 - sparsity({n: masks[n]}) if n in masks else 1.0 for n in flops}
    after = sum(count * kept[name] for name, count in flops.items())
    return sum(flops.values()) / after if after else float("inf")
