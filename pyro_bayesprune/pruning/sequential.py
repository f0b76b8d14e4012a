"""A log Bayes factor from as much of the data as its decision needs.

The log Bayes factor is a sum over examples of differences of two log likelihoods, plus a constant.
Differences of a random subset estimate it without bias, and far from the threshold a few suffice.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

FIRST = 512  # examples read before the first look, at least; from there on doubled
CARRIERS = 20  # examples that must carry the spread of the differences before an early decision


@dataclass(frozen=True)
class Estimate:
    """A sum over N examples, estimated from a part of them.

    Args:
        value: unbiased estimate of the sum.
        low: lower end of its confidence sequence.
        high: upper end; both equal the value where everything was read.
        share: share of the examples that were read.
    """

    value: float
    low: float
    high: float
    share: float


def half_width(read: int, num_data: int, std: float, alpha: float) -> float:
    """Return the half width of the confidence sequence for a sum over ``num_data`` examples.

    An asymptotic confidence sequence (Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, 2024,
    "Time-uniform central limit theory and asymptotic confidence sequences", Annals of Statistics
    52(6), equation 13): valid at every stopping time at once, as the first look moves to infinity,
    for any distribution of finite variance. It is no finite-sample bound: that would need a range,
    and log likelihoods have none.

    Without replacement, W_t = N (S_t - t μ) / (σ (N - t)) is a martingale, S_t the sum of the first
    t of N differences with mean μ. Its variance is t N / (N - t) =: τ (up to 1/N), so that W is
    Brownian motion in the time τ, and Robbins' normal mixture bounds it by::

        |W_t| < sqrt((τ + 1/ρ²) log((τ ρ² + 1) / α²))  at all times, with probability 1 - α.

    The width is zero where everything is read. ρ makes it narrow when 4·`FIRST` are.

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
    """Yield how many examples are read at each look: doubled, and all rather than over half.

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
    """Return the number of examples that carry the spread: (Σ d²)² / Σ d⁴, d from the mean.

    It is about n for differences of one size and k where k of them are large and the rest equal.
    Of few carriers neither the variance nor the central limit theorem says anything reliable; where
    all differences are equal there are none, and nothing is known of those that were not read.
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
    """Estimate constant + Σ differences, reading on until the threshold lies outside the interval.

    The decision "value > threshold" is that of all data with probability at least 1 - ``alpha``.
    Half of alpha is that of the confidence sequence, see `half_width`. The other half is for rare
    large differences, which a part of the data can miss: a part decides early only if it holds
    `first_share` of the examples, and if at least `CARRIERS` examples carry its spread. So where
    `CARRIERS` or more of all examples have differences far larger than the rest, a part decides
    that holds many of them or, with probability alpha / 2, none. What remains: k fewer than
    `CARRIERS` are all missed with probability (alpha / 2)^(k / `CARRIERS`), 0.07 for 10 at 0.01.
    Undecided, it reads all the data and is exact.

    Args:
        differences: function that returns those of the first t examples in random order, (t,).
        num_data: number N of examples.
        constant: what is added to the sum, e.g. a ratio of priors.
        threshold: what the sum is compared with.
        alpha: error rate of the decision.
    """
    for read in looks(num_data, alpha / 2):
        sample = differences(read).double()
        value = constant + num_data * sample.mean().item()
        width = half_width(read, num_data, sample.std().item() if read > 1 else 0.0, alpha / 2)
        reliable = read == num_data or carriers(sample) >= CARRIERS
        if reliable and abs(value - threshold) > width:
            break
    return Estimate(value, value - width, value + width, read / num_data)
