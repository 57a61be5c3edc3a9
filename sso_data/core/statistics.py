"""Statistics of counts: a share's 95 % interval, the sign test, rank correlation."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Z_95 = 1.959963984540054
"""The normal distribution's 0.975 quantile."""


def wilson(share: float, n: int) -> tuple[float, float]:
    """Return the score interval (Wilson 1927), 95 %, of a binomial share of `n` > 0 trials."""
    centre = (share + Z_95**2 / (2 * n)) / (1 + Z_95**2 / n)
    half = Z_95 / (1 + Z_95**2 / n)
    half *= math.sqrt(max(0.0, share * (1 - share)) / n + Z_95**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


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
