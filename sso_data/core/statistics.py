"""Means, differences and shares with 95 % intervals, the sign test, rank correlation."""

import math
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from statistics import fmean, stdev

import numpy as np
from numpy.typing import ArrayLike, NDArray

Z_95 = 1.959963984540054
"""The normal distribution's 0.975 quantile."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.3g} [{self.low:+.3g}, {self.high:+.3g}]"

    def times(self, factor: float) -> "Estimate":
        """Return the estimate in another unit; `factor` is positive."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor)

    @property
    def is_shown(self) -> bool:
        """True where the interval of a difference does not hold 0."""
        return self.low > 0 or self.high < 0

    @property
    def in_words(self) -> str:
        """A difference as a phrase: none is told that is not shown."""
        if not self.is_shown:
            return f"no difference shown ({self})"
        return f"{'rose' if self.value > 0 else 'fell'} ({self})"

    def to_json(self) -> list[float]:
        """[value, low, high], 6 significant digits."""
        return [float(f"{number:.6g}") for number in astuple(self)]


def mean_of(values: Iterable[float]) -> Estimate | None:
    """The mean of the finite values with Student's interval; None of fewer than two.

    Of the differences of pairs it is the paired difference of two means.
    """
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < 2:
        return None
    mean = fmean(finite)
    half = _student(len(finite) - 1) * stdev(finite, mean) / math.sqrt(len(finite))
    return Estimate(mean, mean - half, mean + half)


def difference(after: Estimate, before: Estimate, correlation: float = 0.0) -> Estimate:
    """`after` less `before` from their intervals; independent samples have no correlation.

    Newcombe's square-and-add interval (Statistics in Medicine 17:873, 1998, method 10), which is
    Welch's for means and takes Wilson's intervals for shares; of paired shares 17:2635, method 10,
    with their phi as it is.
    """

    def added(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one**2 - 2 * correlation * one * other + other**2))

    value = after.value - before.value
    below = added(after.value - after.low, before.high - before.value)
    above = added(after.high - after.value, before.value - before.low)
    return Estimate(value, value - below, value + above)


def _student(degrees: int) -> float:
    """Student's 0.975 quantile, within 1 % from 3 degrees of freedom on (Abramowitz 26.7.5)."""
    z, n = Z_95, degrees
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    )


def wilson(share: float, n: int) -> tuple[float, float]:
    """Return the score interval (Wilson 1927), 95 %, of a binomial share of `n` > 0 trials."""
    center = (share + Z_95**2 / (2 * n)) / (1 + Z_95**2 / n)
    half = Z_95 / (1 + Z_95**2 / n)
    half *= math.sqrt(max(0.0, share * (1 - share)) / n + Z_95**2 / (4 * n**2))
    return (center - half if share > 0 else 0.0), (center + half if share < 1 else 1.0)


def sign_test(one: int, other: int) -> float:
    """Return the exact two-sided p of a sign test: 2 P(X <= the smaller), X ~ Bin(n, 1/2).

    1 where both counts are equal or 0.
    """
    n = one + other
    log_factorials = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, n + 1)))))
    below = np.arange(min(one, other) + 1)
    logs = log_factorials[n] - log_factorials[below] - log_factorials[n - below]
    return min(1.0, 2 * float(np.exp(logs - n * math.log(2)).sum()))


def spearman(a: ArrayLike, b: ArrayLike) -> float | None:
    """Return Spearman's rank correlation, ties at their mean rank; None of a constant side."""
    first, second = _ranks(a), _ranks(b)
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(np.corrcoef(first, second)[0, 1])


def _ranks(values: ArrayLike) -> NDArray[np.float64]:
    """Return the rank of each value; equal values share the mean of theirs."""
    _, place, count = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    ends = np.cumsum(count)
    ranks: NDArray[np.float64] = (ends - (count - 1) / 2)[place]
    return ranks
