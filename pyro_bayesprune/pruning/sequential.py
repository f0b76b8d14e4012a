"""A log Bayes factor from as much of the data as its decision needs.

The log Bayes factor is a sum over examples of differences of two log likelihoods, plus a constant.
A random subset of the differences gives an unbiased estimate. If the sum is far from the threshold,
a few examples are sufficient for the decision.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from torch import Tensor

FIRST = 512  # smallest number of examples at the first look; each look doubles it
CARRIERS = 20  # examples that must carry the spread of the differences before an early decision


class Estimate(NamedTuple):
    """A sum over N examples, estimated from a subset.

    Args:
        value: unbiased estimate of the sum.
        low: lower end of its confidence sequence.
        high: upper end; both ends equal the value if all examples were read.
        share: share of the examples that were read.
    """

    value: float
    low: float
    high: float
    share: float


def half_width(read: int, num_data: int, std: float, alpha: float) -> float:
    """Return the half width of the confidence sequence for a sum over ``num_data`` examples.

    This is an asymptotic confidence sequence (Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas,
    2024, "Time-uniform central limit theory and asymptotic confidence sequences", Annals of
    Statistics 52(6), equation 13). As the number of examples at the first look grows, it becomes
    valid at all stopping times simultaneously, for any distribution of finite variance. It is not a
    finite-sample bound, which would need a bounded range; log likelihoods have none.

    Let S_t be the sum of the first t of N differences with mean μ and standard deviation σ, drawn
    without replacement. Then W_t = N (S_t - t μ) / (σ (N - t)) is a martingale. Its variance is
    τ = t N / (N - t), up to 1/N, so that W is Brownian motion in the time τ. Robbins' normal
    mixture gives the bound ::

        |W_t| < sqrt((τ + 1/ρ²) log((τ ρ² + 1) / α²))  at all times, with probability 1 - α.

    ρ makes the width smallest at 4·`FIRST` examples. The width is zero if all examples were read.

    Args:
        read: number t of examples read, in random order.
        num_data: number N of examples.
        std: standard deviation of the differences.
        alpha: error rate.
    """
    if read == num_data:
        return 0.0
    tau = read * num_data / (num_data - read)
    log = -2 * math.log(alpha)
    rho2 = (log + math.log(log + 1)) / (4 * FIRST)
    bound = math.sqrt((tau + 1 / rho2) * math.log((tau * rho2 + 1) / alpha**2))
    return std * (num_data - read) / read * bound


def first_share(alpha: float) -> float:
    """Return the share of the data that misses all of `CARRIERS` examples with probability alpha.

    (1 - share)^`CARRIERS` = alpha, for examples that are read in random order.
    """
    return 1 - alpha ** (1 / CARRIERS)


def looks(num_data: int, alpha: float) -> Iterator[int]:
    """Yield the number of examples read at each look; after half of the data, all are read.

    Args:
        num_data: number N of examples.
        alpha: see `first_share`.
    """
    read = max(FIRST, math.ceil(first_share(alpha) * num_data))
    while read <= num_data / 2:
        yield read
        read *= 2
    yield num_data


def carriers(differences: Tensor) -> float:
    """Return the effective number of examples that carry the spread: (Σ d²)² / Σ d⁴, d centred.

    It is about n for differences of one size, and k if k of them are large and the rest are equal.
    With few carriers the sample variance and the central limit theorem are not reliable. If all
    differences are equal, the result is 0, because nothing is known of the unread examples.
    """
    squares = (differences - differences.mean()).square()
    total, fourth = squares.sum().item(), squares.square().sum().item()
    return total**2 / fourth if fourth > 0 else 0.0


def estimate_sum(
    differences: Callable[[int], Tensor],
    num_data: int,
    *,
    constant: float,
    threshold: float,
    alpha: float,
) -> Estimate:
    """Estimate constant + Σ differences, reading until the threshold lies outside the interval.

    The decision "value > threshold" equals that of all data with probability at least 1 - α. Half
    of α is the error rate of the confidence sequence, see `half_width`. The other half covers rare
    large differences, which a subset can miss. An early decision therefore needs `first_share` of
    the examples, and at least `CARRIERS` examples that carry the spread of the differences. If
    `CARRIERS` or more of all examples have differences far larger than the rest, the subset
    contains none of them with probability at most α / 2. Fewer such examples, k, are all missed
    with probability (α / 2)^(k / `CARRIERS`), which is 0.07 for k = 10 and α = 0.01. If no early
    decision is possible, all data are read and the result is exact.

    Args:
        differences: function that returns the first t differences in random order, (t,).
        num_data: number N of examples.
        constant: is added to the sum, e.g. a difference of log priors.
        threshold: is compared with the sum.
        alpha: error rate α of the decision.
    """
    for read in looks(num_data, alpha / 2):
        sample = differences(read).double()
        value = constant + num_data * sample.mean().item()
        width = half_width(read, num_data, sample.std().item() if read > 1 else 0.0, alpha / 2)
        reliable = read == num_data or carriers(sample) >= CARRIERS
        if reliable and abs(value - threshold) > width:
            break
    return Estimate(value, value - width, value + width, read / num_data)
