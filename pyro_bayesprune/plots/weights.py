"""Figures of the weights that survive: their values against the prior, and their places."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pyro import poutine
from torch import Tensor

from pyro_bayesprune.models.module import BayesianModule, network
from pyro_bayesprune.models.plain import Fitted
from pyro_bayesprune.models.priors import Prior, elementwise
from pyro_bayesprune.plots import style

PANELS = 12  # layers of a figure, those with most survivors
POINTS = 101  # of a curve of the prior's density
EVALUATIONS = 1_000_000  # of a prior's density; it is exact for up to 9,900 weights with own priors
CELLS = 96  # rows and columns of a map; larger matrices are averaged in blocks
TILES = 64  # kernels of the first layer in a map


def weights_against_prior(
    weights: Fitted | Mapping[str, Tensor],
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
        ValueError: if there is nothing to draw, if a prior has no density for each weight, or if it
            samples a scale that ``weights`` does not contain.
    """
    priors: Mapping[str, Any] = {}
    if not isinstance(weights, Mapping):
        masks, module = masks or weights.masks, network(weights.model)
        weights = weights.weights
        priors = module.priors_at(weights) if isinstance(module, BayesianModule) else {}
    masks = masks or {n: torch.ones_like(w, dtype=torch.bool) for n, w in weights.items()}
    if prior is not None:
        priors = {name: _prior_at(prior, name, weights) for name in masks}
    figure, axes = _grid(masks, {name: float(mask.sum()) for name, mask in masks.items()})
    for number, (name, ax) in enumerate(axes.items()):
        values = weights[name][masks[name]].detach().cpu().double().numpy()
        _histogram(ax, values)
        if name in priors:
            _density(ax, name, priors[name], weights[name])
        ax.set(xlabel="weight", ylabel="" if number % 2 else "density")
        ax.set_title(f"{_layer(name)}: {len(values):,} weights", fontsize="medium")
    handles = [style.sample(style.SURVIVORS, linewidth=6, alpha=0.5)]
    handles += [style.sample(style.PRIOR)] * bool(priors)
    style.legend_below(figure, handles)
    return figure


def survivors(masks: Fitted | Mapping[str, Tensor], shape: Sequence[int] | None = None) -> Figure:
    """Draw where weights survive, one panel for each layer.

    Masks are matrices. In dense layers and convolutions, they have one row for each output and one
    column for each input (of a convolution: each input channel and position in the kernel). In
    general, a row is an index of the first dimension of the weight: an input of a transposed
    convolution, or an entry of an embedding. A cell of a large matrix is the share of survivors in
    a block. With the shape of an image, the first layer is drawn as images:
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
        mask = layers[name]
        if name == first and shape is not None:
            values, labels = _first_layer(name, mask, shape)
        else:
            values = _blocks(mask.flatten(1).double().numpy())
            labels = {"xlabel": "columns", "ylabel": "rows", "aspect": "auto"}
        image = ax.imshow(values, cmap=style.SHARES, vmin=0, interpolation="none")
        if not set(np.unique(np.nan_to_num(values))) <= {0, 1}:  # otherwise, two colours suffice
            what = "survivors" if np.nanmax(values) > 1 else "share of survivors"
            figure.colorbar(image, ax=ax, shrink=0.8).set_label(what, size="small")
        ax.set(xticks=[], yticks=[], **labels)
        title = f"{_layer(name)}: {mask.sum():,} of {mask.numel():,}"
        ax.set_title(title, fontsize="medium")
    return figure


def _grid(
    layers: Mapping[str, Tensor], sizes: Mapping[str, float]
) -> tuple[Figure, dict[str, Axes]]:
    """Return axes for the layers of largest size, in their order, two in a row."""
    if not layers:
        raise ValueError("there is nothing to draw: no site has weights with a mask")
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
    largest = np.abs(values).max(initial=0) or 1.0
    ax.set_xlim(-largest, largest)
    if len(values):
        bins = np.linspace(-largest, largest, 1 + min(40, 4 + 2 * math.isqrt(len(values))))
        shares, _ = np.histogram(values, bins, density=True)
        ax.stairs(shares, bins, fill=True, color=style.SURVIVORS.colour, alpha=0.5)


def _prior_at(prior: Prior, name: str, weights: Mapping[str, Tensor]) -> Any:  # noqa: ANN401
    """Return the prior of a site. A prior that samples a scale gets it from ``weights``."""
    conditioned = poutine.condition(prior, data=dict(weights))
    trace = poutine.trace(conditioned).get_trace(name, weights[name].shape)
    if missing := set(trace.nodes) - {"_INPUT", "_RETURN"} - set(weights):
        raise ValueError(f"the prior of {name!r} samples {sorted(missing)}: add it to the weights")
    return trace.nodes["_RETURN"]["value"]


def _density(ax: Axes, name: str, prior: Any, weight: Tensor) -> None:  # noqa: ANN401
    """Draw the density of one weight, averaged over the weights if they have several priors."""
    points, size = np.linspace(*ax.get_xlim(), POINTS), weight.numel()
    rows = min(POINTS, math.ceil(EVALUATIONS / size))  # with POINTS rows, all weights at all points
    index = ((np.arange(rows)[:, None] + np.arange(size)) % POINTS).ravel()
    values = torch.as_tensor(points[index]).to(weight).reshape(rows, *weight.shape)
    log_density = elementwise(prior).log_prob(values)
    if log_density.shape != values.shape:
        raise ValueError(f"the prior of {name!r} has no density for each weight: {prior}")
    sums = np.bincount(index, log_density.double().exp().flatten().cpu().numpy())
    look = style.PRIOR
    ax.plot(points, sums / np.bincount(index), color=look.colour, linestyle=look.linestyle)


def _first_layer(
    name: str, mask: Tensor, shape: Sequence[int]
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the first layer's mask as images, and the label of the horizontal axis."""
    channels, height, width = (1, *shape)[-3:]
    if mask.dim() == 2 and mask.shape[1] == channels * height * width:
        counts = mask.sum(0).reshape(channels, height, width).sum(0)
        return counts.numpy(), {"xlabel": "pixels"}
    if mask.dim() == 4 and mask.shape[1] == channels:
        return _tiled(mask[:TILES].double().mean(1).numpy()), {"xlabel": "kernels"}
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
    return np.vstack(
        [np.hstack(list(row)) for row in padded.reshape(-1, columns, *padded.shape[1:])]
    )


def _blocks(matrix: np.ndarray) -> np.ndarray:
    """Return the means of blocks of a matrix, so that it has at most `CELLS` rows and columns."""
    for axis in (0, 1):
        size = matrix.shape[axis]
        starts = np.linspace(0, size, min(size, CELLS), endpoint=False).astype(int)
        counts = np.diff([*starts, size])
        sums = np.add.reduceat(matrix, starts, axis)
        matrix = sums / (counts[:, None] if axis == 0 else counts)
    return matrix
