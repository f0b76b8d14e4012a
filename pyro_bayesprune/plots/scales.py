"""Scales with plain ticks (0.1, 0.2, 0.5 instead of powers of ten), and intervals of scores."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, Locator, MaxNLocator, NullLocator
from numpy.typing import ArrayLike
from scipy import stats

from pyro_bayesprune.experiments.statistics import describe

PROBABILITY = 0.95  # of intervals
# Multiples of every first, second, ... power of ten, from the densest ticks to the sparsest.
MULTIPLES = ((1, (1, 2, 5)), (1, (1,)), (2, (1,)), (3, (1,)), (4, (1,)), (6, (1,)))


class PlainTicks(Locator):
    """Places ticks at 1, 2 and 5 times powers of ten, or fewer if these are too many.

    Args:
        linear: a scale that is linear around zero has ticks at zero and at ± this number or more.
            The default is a logarithmic scale.
        most: largest number of ticks.
    """

    def __init__(self, linear: float | None = None, most: int = 9) -> None:
        self.linear, self.most = linear, most

    def __call__(self) -> list[float]:
        """Return the ticks of the axis."""
        assert self.axis is not None
        return self.tick_values(*self.axis.get_view_interval())

    def tick_values(self, vmin: float, vmax: float) -> list[float]:
        """Return the ticks between two values."""
        low, high = sorted((vmin, vmax))
        ticks = np.array([])
        for stride, factors in MULTIPLES:
            powers = 10.0 ** np.arange(-12, 16, stride)
            ticks = self._both_signs(np.outer(powers, factors).ravel())
            ticks = ticks[(low <= ticks) & (ticks <= high)]
            if len(ticks) <= self.most:
                break
        narrow = self.linear is None and high < 10 * low
        if len(ticks) >= (3 if narrow else 2):
            return ticks.tolist()
        ticks = np.asarray(MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(low, high))
        return ticks[(low <= ticks) & (ticks <= high)].tolist()

    def _both_signs(self, ticks: np.ndarray) -> np.ndarray:
        if self.linear is None:
            return ticks
        ticks = ticks[ticks >= self.linear]
        return np.concatenate([-ticks[::-1], [0.0], ticks])


def plain_ticks(axis: Axis, linear: float | None = None, most: int = 9) -> None:
    """Put plain ticks on a logarithmic axis, or on one that is linear within ± ``linear``."""
    axis.set_major_locator(PlainTicks(linear, most))
    axis.set_major_formatter(
        FuncFormatter(lambda x, _: f"{x:,.10g}".replace("-", "\N{MINUS SIGN}"))
    )
    axis.set_minor_locator(NullLocator())


def log_if_positive(ax: Axes) -> None:
    """Use a logarithmic scale, unless losses are negative. The losses of densities can be."""
    values = [line.get_ydata() for line in ax.get_lines()]  # a band may reach below zero
    if values and np.nanmin(np.concatenate(values)) > 0:
        ax.set_yscale("log")
        plain_ticks(ax.yaxis)
        ax.autoscale_view()


def nats(ax: Axes) -> None:
    """Use a symmetric logarithmic scale of log Bayes factors, and draw a line at zero.

    The scale is linear within ± 1 nat. If values exceed 1,000 nats, it is linear within the power
    of ten below a hundredth of the largest, because small differences around zero do not matter.
    """
    drawn = [line.get_ydata() for a in ax.get_shared_y_axes().get_siblings(ax) for line in a.lines]
    sizes = np.abs(np.concatenate([[1.0], *drawn]))
    largest = sizes[np.isfinite(sizes)].max()
    linear = max(1.0, 10.0 ** np.floor(np.log10(largest) - 2))
    ax.set_yscale("symlog", linthresh=linear)
    plain_ticks(ax.yaxis, linear)
    ax.autoscale_view()  # limits that an earlier call computed have the margins of a linear scale
    ax.axhline(0, color="black", linewidth=0.8, zorder=1)


def is_uniform(shares: ArrayLike) -> bool:
    """Return whether shares are equal up to 2%, so that a figure of them would show nothing.

    Callers that omit such a figure use it, for example for the layers of `sparsity_by_layer`.

    Args:
        shares: numbers in [0, 1].
    """
    values = np.asarray(shares, dtype=float)
    return not len(values) or bool(np.ptp(values) <= max(0.02 * values.max(), 1e-3))


def binomial_interval(shares: ArrayLike, examples: ArrayLike) -> np.ndarray:
    """Return 95% intervals (2, n) of probabilities, by Wilson's method.

    Args:
        shares: observed shares (n,) in [0, 1], for example accuracies.
        examples: numbers of examples (n,) behind the shares.
    """
    totals = np.asarray(examples, dtype=int)
    counts = np.round(np.multiply(shares, totals)).astype(int)
    tests = [stats.binomtest(*pair) for pair in zip(counts.tolist(), totals.tolist(), strict=True)]
    intervals = [test.proportion_ci(PROBABILITY, method="wilson") for test in tests]
    return np.array(intervals).reshape(-1, 2).T


def score_interval(
    values: ArrayLike, num_test: int | None, highest: float = np.inf
) -> tuple[float, float]:
    """Return the 95% interval of a score: of the mean over seeds (t), or of one seed (binomial).

    Args:
        values: scores of the seeds.
        num_test: number of test examples, if the score is a share of them; otherwise None.
        highest: the highest possible score. The lowest is zero.

    Returns:
        Lower and upper end. They are NaN for one seed without ``num_test``, and for several equal
        values, which show no spread.
    """
    described = describe(pd.Series(values, dtype=float))
    if described["seeds"] == 1 and num_test is not None:
        (low,), (high,) = binomial_interval([described["mean"]], [num_test])
        return low, high
    low, high = np.clip([described["low"], described["high"]], 0, highest)
    return low, high


def include_interval(ax: Axes, accuracies: ArrayLike, num_test: int | None) -> None:
    """Extend an axis of accuracies to the interval of the test set around their mean.

    Otherwise the axis would magnify differences that the test set cannot show.
    """
    if num_test is not None and np.size(accuracies):
        (low,), (high,) = binomial_interval(
            [np.asarray(accuracies, dtype=float).mean()], [num_test]
        )
        bottom, top = ax.get_ylim()
        ax.set_ylim(min(bottom, low), max(top, high))
