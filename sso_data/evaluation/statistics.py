"""Statistics of verdicts: rates with 95 % intervals, raw and at equal lengths.

A preference is 1 where the first answer won, 0 where the second did, 0.5 for a tie; the mean of
two orders may be 0.25 or 0.75, too.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sso_data.core.statistics import Z_95, wilson
from sso_data.evaluation.verdicts import Verdict

LENGTH_PENALTY = 0.01
"""Ridge on the length coefficient: the fit exists even where the longer answer always won."""

LEAST_AGREEMENT = 0.6
"""Agreement of both orders below which a judge's verdicts say little about the answers."""

_MOST_LOGIT = 20.0
_MOST_STEPS = 200
_CONVERGED = 1e-10

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A mean preference of `n` verdicts and its 95 % interval; None of none."""

    value: float | None
    low: float | None
    high: float | None
    n: int

    def to_json(self) -> dict[str, float | int | None]:
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}

    def __str__(self) -> str:
        if self.value is None or self.low is None or self.high is None:
            return "-"
        return f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}]"


NO_RATE = Rate(value=None, low=None, high=None, n=0)
"""The rate of no verdicts."""


def rate_of(preferences: Sequence[float]) -> Rate:
    """The mean preference, with Wilson's score interval for a binomial share (Wilson 1927).

    A tie counts as half a win and half a loss. The interval takes every verdict for a whole win or
    loss: with ties it is conservative.
    """
    if not len(preferences):
        return NO_RATE
    n, share = len(preferences), float(np.mean(preferences))
    low, high = wilson(share, n)
    return Rate(value=share, low=low, high=high, n=n)


def length_controlled(
    preferences: Sequence[float], lengths_a: Sequence[float], lengths_b: Sequence[float]
) -> Rate:
    """The win rate of `a` as it would be if both answers were always equally long.

    The idea is that of AlpacaEval 2 (arXiv 2404.04475), and the model its variant
    `length_controlled_minimal`: logit P(a wins) = theta + phi * tanh(d / std(d)), where d is
    the difference of the lengths in characters and std(d) its sample standard deviation;
    preferences are the targets of a cross-entropy, fractions included. The rate is
    logistic(theta), what the model says at d = 0.

    What differs from AlpacaEval's leaderboard: there is no term for the instruction's difficulty
    (it is estimated from the leaderboard's models), no data of artificially lengthened answers
    are added, and in the place of an L1 penalty chosen by cross-validation phi has a fixed, very
    weak ridge (`LENGTH_PENALTY`), theta none. On five simulated sets of 100 to 1,000 verdicts the
    variant's own fit (scikit-learn) and this one differed by half a percentage point at most; the
    leaderboard's numbers are still not to be compared with these.

    The interval is the fit's usual one, theta +- 1.96 standard errors (inverse of the observed
    information, a tie again counted as half a win and half a loss), on the scale of rates. Where
    one side always won there is no such fit: value and interval are then the raw ones.
    """
    raw = rate_of(preferences)
    wins: Floats = np.asarray(preferences, np.float64)
    difference = np.asarray(lengths_a, np.float64) - np.asarray(lengths_b, np.float64)
    spread = float(np.std(difference, ddof=1)) if len(difference) > 1 else 0.0
    if raw.value in (0.0, 1.0) or spread == 0.0:
        return raw
    feature = np.tanh(difference / spread)
    (theta, _), variance = fit_logistic(feature, wins)
    if abs(theta) >= _MOST_LOGIT:
        return raw
    half = Z_95 * math.sqrt(variance)
    low, value, high = (_logistic(at) for at in (theta - half, theta, theta + half))
    return Rate(value=value, low=low, high=high, n=raw.n)


def fit_logistic(feature: Floats, targets: Floats) -> tuple[tuple[float, float], float]:
    """((theta, phi), variance of theta) of logit P = theta + phi * feature, by Newton's method.

    Minimises the cross-entropy of `targets` (in [0, 1]) plus LENGTH_PENALTY / 2 * phi^2.
    """
    design = np.column_stack((np.ones_like(feature), feature))
    ridge = np.diag((0.0, LENGTH_PENALTY))
    at = np.zeros(2)
    for _ in range(_MOST_STEPS):
        chances = 1 / (1 + np.exp(-design @ at))
        gradient = design.T @ (chances - targets) + ridge @ at
        curvature = (design.T * (chances * (1 - chances))) @ design + ridge
        step = np.linalg.solve(curvature + 1e-12 * np.eye(2), gradient)
        step *= min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-300))
        at = np.clip(at - step, -_MOST_LOGIT, _MOST_LOGIT)
        if float(np.abs(step).max()) < _CONVERGED:
            break
    variance = float(np.linalg.inv(curvature + 1e-12 * np.eye(2))[0, 0])
    return (float(at[0]), float(at[1])), variance


@dataclass(frozen=True, slots=True, kw_only=True)
class Consistency:
    """What a judge's verdicts in both orders say of the judge, over `n` pairs.

    `agreement`: the share of pairs with the same verdict in both orders; a coin has .5.
    `first_share`: the share of verdicts, ties apart, for the answer shown first (None: all are
    ties). `contradicted`: pairs of which it preferred the first, or the second, both times.
    """

    agreement: float
    first_share: float | None
    contradicted: int
    n: int

    @property
    def is_low(self) -> bool:
        """True where its verdicts say little about the answers."""
        return self.agreement < LEAST_AGREEMENT

    def __str__(self) -> str:
        first = "" if self.first_share is None else f", first place {self.first_share:.1%}"
        return f"both orders agree {self.agreement:.1%}{first}"


def consistency_of(verdicts: Iterable[Verdict]) -> Consistency | None:
    """How far the verdicts depend on the order of the answers; None where none was judged twice."""
    orders = [verdict.orders for verdict in verdicts if verdict.orders is not None]
    if not orders:
        return None
    # of the answer shown first: `a` in the first order, `b` in the second
    said = [one for a, b in orders for one in (a, 1 - b) if one != 0.5]
    return Consistency(
        agreement=sum(a == b for a, b in orders) / len(orders),
        first_share=sum(said) / len(said) if said else None,
        contradicted=sum({a, b} == {0.0, 1.0} for a, b in orders),
        n=len(orders),
    )


def tied(verdicts: Sequence[Verdict]) -> int:
    """The number of ties; verdicts that contradict each other in the two orders are none."""
    return sum(
        verdict.preference == 0.5 and (verdict.orders is None or 0.5 in verdict.orders)
        for verdict in verdicts
    )


def mean_score(verdicts: Iterable[Verdict], side: int) -> float | None:
    """The mean score of one side (0: a, 1: b) over the verdicts that have scores."""
    scores = [verdict.scores[side] for verdict in verdicts if verdict.scores is not None]
    return sum(scores) / len(scores) if scores else None


def _logistic(at: float) -> float:
    return 1 / (1 + math.exp(-at)) if at >= 0 else math.exp(at) / (1 + math.exp(at))
