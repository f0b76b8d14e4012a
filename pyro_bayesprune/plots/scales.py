"""Scales with plain ticks (0.1, 0.2, 0.5 instead of powers of ten), and intervals of scores."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, Locator, MaxNLocator, NullLocator
from scipy import stats

PROBABILITY = 0.95  # of intervals
MOST = 9  # ticks of an axis
# Multiples of every first, second, ... power of ten, from the densest ticks to the sparsest.
MULTIPLES = ((1, (1, 2, 5)), (1, (1,)), (2, (1,)), (3, (1,)), (4, (1,)), (6, (1,)))


class PlainTicks(Locator):
    """Places ticks at 1, 2 and 5 times powers of ten, or fewer if these are more than ``MOST``.

    Args:
        linear: a scale that is linear around zero has ticks at zero and at ± this number or more.
            The default is a logarithmic scale.
    """

    def __init__(self, linear: float | None = None) -> None:
        self.linear = linear

    def __call__(self) -> np.ndarray:
        """Return the ticks of the axis."""
        assert self.axis is not None
        return self.tick_values(*self.axis.get_view_interval())

    def tick_values(self, vmin: float, vmax: float) -> np.ndarray:
        """Return the ticks between two values."""
        low, high = sorted((vmin, vmax))
        ticks = np.array([])
        for stride, factors in MULTIPLES:
            powers = 10.0 ** np.arange(-12, 16, stride)
            ticks = self._both_signs(np.outer(powers, factors).ravel())
            ticks = ticks[(low <= ticks) & (ticks <= high)]
            if len(ticks) <= MOST:
                break
        return ticks if len(ticks) > 2 else np.asarray(MaxNLocator(4).tick_values(low, high))

    def _both_signs(self, ticks: np.ndarray) -> np.ndarray:
        if self.linear is None:
            return ticks
        ticks = ticks[ticks >= self.linear]
        return np.concatenate([-ticks[::-1], [0.0], ticks])


def plain_ticks(axis: Axis, linear: float | None = None) -> None:
    """Put plain ticks on a logarithmic axis, or on one that is linear within ± ``linear``."""
    axis.set_major_locator(PlainTicks(linear))
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.10g}".replace("-", "\N{MINUS SIGN}")))
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

    The scale is linear within ± 1 nat. If values exceed 10,000 nats, it is linear within the power
    of ten below a thousandth of the largest, because their differences near zero do not matter.
    """
    drawn = [line.get_ydata() for a in ax.get_shared_y_axes().get_siblings(ax) for line in a.lines]
    sizes = np.abs(np.concatenate([[1.0], *drawn]))
    largest = sizes[np.isfinite(sizes)].max()
    linear = max(1.0, 10.0 ** np.floor(np.log10(largest) - 3))
    ax.set_yscale("symlog", linthresh=linear)
    plain_ticks(ax.yaxis, linear)
    ax.autoscale_view()  # limits that an earlier call computed have the margins of a linear scale
    ax.axhline(0, color="black", linewidth=0.8, zorder=1)


def is_uniform(shares: Sequence[float]) -> bool:
    """Return whether shares are equal up to 2%, so that a figure of them would show nothing.

    Callers that omit such a figure use it, for example for the layers of `sparsity_by_layer`.

    Args:
        shares: numbers in [0, 1].
    """
    return bool(np.ptp(shares) <= max(0.02 * np.max(shares), 1e-3)) if len(shares) else True


def binomial_interval(shares: Sequence[float], examples: Sequence[int]) -> np.ndarray:
    """Return 95% intervals (2, n) of probabilities, by Wilson's method.

    Args:
        shares: observed shares (n,) in [0, 1], for example accuracies.
        examples: numbers of examples (n,) behind the shares.
    """
    counts = zip(np.round(np.multiply(shares, examples)).astype(int), examples, strict=True)
    tests = (stats.binomtest(count, int(n)) for count, n in counts)
    intervals = [test.proportion_ci(PROBABILITY, method="wilson") for test in tests]
    return np.array(intervals).reshape(-1, 2).T


def score_interval(
    values: Sequence[float], num_test: int | None, highest: float = np.inf
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
    mean, count = float(np.mean(values)), len(values)
    if count > 1:
        error = np.std(values, ddof=1) / np.sqrt(count)
        half = stats.t.ppf((1 + PROBABILITY) / 2, count - 1) * error if error > 1e-12 else np.nan
        return np.clip(mean - half, 0, highest), np.clip(mean + half, 0, highest)
    if num_test is None:
        return np.nan, np.nan
    low, high = binomial_interval([mean], [num_test])
    return float(low[0]), float(high[0])


def include_interval(ax: Axes, accuracies: Sequence[float], num_test: int | None) -> None:
    """Extend an axis of accuracies to the interval of the test set around their mean.

    Otherwise the axis would magnify differences that the test set cannot show.
    """
    if num_test is not None and len(accuracies):
        (low,), (high,) = binomial_interval([float(np.mean(accuracies))], [num_test])
        bottom, top = ax.get_ylim()
        ax.set_ylim(min(bottom, low), max(top, high))
