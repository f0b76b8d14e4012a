"""Figures of the weights that survive: their values against the prior, and their places."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pyro_bayesprune.models.module import BayesianModule, network
from pyro_bayesprune.models.priors import Prior, elementwise
from pyro_bayesprune.plots import style
from pyro_bayesprune.training.fitting import Fit

PANELS = 12  # layers of a figure, those with most survivors
POINTS = 101  # of a curve of the prior's density
CELLS = 96  # rows and columns of a map; larger matrices are averaged in blocks
TILES = 64  # kernels of the first layer in a map


def weights_against_prior(
    weights: Fit | Mapping[str, Tensor],
    masks: Mapping[str, Tensor] | None = None,
    prior: Prior | None = None,
) -> Figure:
    """Draw the surviving weights of each layer as a histogram, with the density of their prior.

    A histogram much narrower than the density says that the prior is wider than the weights need,
    and the reverse that it contradicts the data. Pruned weights are not in the histogram, because
    all of them are zero.

    Args:
        weights: a `Fit` (or a run of `load_run`) of a `BayesianModule`, or a tensor per site.
        masks: True where a weight survives, for each site to draw. The default is the masks of the
            fit, or else all sites with more than one weight.
        prior: a function ``(name, shape) -> Distribution``, as those in `priors`. The default is
            the prior of the fit, with its learnt scales. Without one, only histograms are drawn.

    Raises:
        ValueError: if there is nothing to draw, or if a prior has no density for each weight.
    """
    priors: Mapping[str, Any] = {}
    if not isinstance(weights, Mapping):
        masks, module = masks or weights.masks, network(weights.model)
        weights = weights.weights
        priors = module.priors_at(weights) if isinstance(module, BayesianModule) else {}
    if prior is not None:
        priors = {name: prior(name, value.shape) for name, value in weights.items()}
    masks = masks or {n: torch.ones_like(w, dtype=torch.bool) for n, w in weights.items()}
    survivors = {name: weights[name][mask].detach().cpu() for name, mask in masks.items()}
    survivors = {name: values for name, values in survivors.items() if len(values) > 1}
    figure, axes = _grid(survivors, {name: len(values) for name, values in survivors.items()})
    for name, ax in axes.items():
        _histogram(ax, survivors[name].double().numpy())
        if name in priors:
            _density(ax, name, priors[name], weights[name].shape)
        ax.set_title(f"{_layer(name)}: {len(survivors[name]):,} weights", fontsize="medium")
    handles = [style.sample(style.SURVIVORS)] + [style.sample(style.PRIOR)] * bool(priors)
    figure.legend(handles=handles, loc="outside upper left", ncols=2, frameon=False)
    figure.supxlabel("value of a weight", fontsize="medium")
    figure.supylabel("density", fontsize="medium")
    return figure


def survivors(masks: Fit | Mapping[str, Tensor], shape: Sequence[int] | None = None) -> Figure:
    """Draw where weights survive, one panel for each layer.

    Masks are matrices, with one row for each output and one column for each input (of a
    convolution: each input channel and position in the kernel). A cell of a large matrix is the
    share of survivors in a block. With the shape of an image, the first layer is drawn as images:
    of a dense layer, how many weights of each pixel survive; of a convolution, its kernels.

    Args:
        masks: a `Fit` (or a run of `load_run`), or a bool tensor per site.
        shape: shape of an input image (channels, height, width) or (height, width).

    Raises:
        ValueError: if no mask has two dimensions, or if the first layer does not take such images.
    """
    masks = masks if isinstance(masks, Mapping) else masks.masks
    layers = {name: mask.detach().cpu() for name, mask in masks.items() if mask.dim() > 1}
    sizes = {name: float(mask.sum()) for name, mask in layers.items()}
    first = next(iter(layers), "")
    if shape is not None:
        sizes[first] = math.inf  # so that it is drawn
    figure, axes = _grid(layers, sizes)
    for name, ax in axes.items():
        mask, text = layers[name], f"{layers[name].sum():,} of {layers[name].numel():,}"
        is_image = name == first and shape is not None
        if is_image:
            values, what = _first_layer(name, mask, shape)
        else:
            values, what = _blocks(mask.flatten(1).double().numpy()), "inputs (rows: outputs)"
        aspect = "equal" if is_image else "auto"
        image = ax.imshow(values, cmap=style.SHARES, vmin=0, aspect=aspect, interpolation="none")
        figure.colorbar(image, ax=ax, shrink=0.8)
        ax.set(xticks=[], yticks=[], xlabel=what)
        ax.set_title(f"{_layer(name)}: {text}", fontsize="medium")
    return figure


def _grid(layers: Mapping[str, Tensor], sizes: Mapping[str, float]) -> tuple[Figure, dict[str, Axes]]:
    """Return axes for the layers of largest size, in their order, two in a row."""
    if not layers:
        raise ValueError("there is nothing to draw: no layer has surviving weights, or a matrix")
    largest = sorted(layers, key=lambda name: sizes[name], reverse=True)[:PANELS]
    names = [name for name in layers if name in largest]
    columns = min(2, len(names))
    rows = math.ceil(len(names) / columns)
    figure, grid = style.panels(rows, columns, figsize=(6, 0.4 + 2.1 * rows), squeeze=False)
    for ax in grid.flat[len(names) :]:
        ax.remove()
    if len(names) < len(layers):
        text = f"the {PANELS} of {len(layers)} layers with most survivors"
        figure.suptitle(text, fontsize="medium")
    return figure, dict(zip(names, grid.flat, strict=False))


def _layer(name: str) -> str:
    return name.removesuffix(".weight")


def _histogram(ax: Axes, values: np.ndarray) -> None:
    largest = np.abs(values).max() or 1.0
    bins = np.linspace(-largest, largest, 1 + min(40, 4 + 2 * math.isqrt(len(values))))
    shares, _ = np.histogram(values, bins, density=True)
    ax.stairs(shares, bins, fill=True, color=style.SURVIVORS.colour, alpha=0.5)
    ax.set_xlim(-largest, largest)


def _density(ax: Axes, name: str, prior: Any, shape: Sequence[int]) -> None:  # noqa: ANN401
    """Draw the density of one weight, averaged over the weights if they have several priors."""
    points = np.linspace(*ax.get_xlim(), POINTS)
    index = np.resize(np.arange(POINTS), math.ceil(POINTS / math.prod(shape)) * math.prod(shape))
    values = torch.as_tensor(points[index], dtype=torch.get_default_dtype()).reshape(-1, *shape)
    log_density = elementwise(prior).log_prob(values)
    if log_density.shape != values.shape:
        raise ValueError(f"the prior of {name!r} has no density for each weight: {prior}")
    density = np.bincount(index, log_density.double().exp().flatten().numpy())
    look = style.PRIOR
    ax.plot(points, density / np.bincount(index), color=look.colour, linestyle=look.linestyle)


def _first_layer(name: str, mask: Tensor, shape: Sequence[int]) -> tuple[np.ndarray, str]:
    """Return the first layer's mask as images, and what they show."""
    channels, height, width = (1, *shape)[-3:]
    if mask.dim() == 2 and mask.shape[1] == channels * height * width:
        counts = mask.sum(0).reshape(channels, height, width).sum(0)
        return counts.numpy(), "surviving weights of each pixel"
    if mask.dim() == 4 and mask.shape[1] == channels:
        return _tiled(mask[:TILES].double().mean(1).numpy()), "kernels"
    raise ValueError(
        f"the first layer {name!r} has weights of shape {tuple(mask.shape)}, which do not take "
        f"images of shape {tuple(shape)}"
    )


def _tiled(images: np.ndarray) -> np.ndarray:
    """Return images (n, height, width) side by side, with gaps of NaN."""
    columns = math.ceil(math.sqrt(len(images)))
    missing = -len(images) % columns
    padded = np.pad(images, ((0, missing), (0, 1), (0, 1)), constant_values=np.nan)
    padded[len(images) :] = np.nan
    return np.vstack([np.hstack(list(row)) for row in padded.reshape(-1, columns, *padded.shape[1:])])


def _blocks(matrix: np.ndarray) -> np.ndarray:
    """Return the means of blocks of a matrix, so that it has at most `CELLS` rows and columns."""
    for axis in (0, 1):
        size = matrix.shape[axis]
        starts = np.linspace(0, size, min(size, CELLS), endpoint=False).astype(int)
        counts = np.diff([*starts, size])
        sums = np.add.reduceat(matrix, starts, axis)
        matrix = sums / (counts[:, None] if axis == 0 else counts)
    return matrix
