"""The numbers that follow from verdicts: by hand, and against a fit of another kind."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from sso_data.core.statistics import Z_95
from sso_data.evaluation.statistics import (
    LENGTH_PENALTY,
    NO_RATE,
    Consistency,
    Rate,
    consistency_of,
    fit_logistic,
    length_controlled,
    rate_of,
    tied,
)
from sso_data.evaluation.verdicts import Verdict

Floats = NDArray[np.float64]


def test_rates_by_hand() -> None:
    """Wilson's interval of 8 of 10, from its textbook formula written with numbers."""
    rate = rate_of([1, 1, 1, 1, 1, 1, 1, 0.5, 0.5, 0])
    z2 = 3.8414588
    center = (0.8 + z2 / 20) / (1 + z2 / 10)
    half = 1.9599640 / (1 + z2 / 10) * math.sqrt(0.8 * 0.2 / 10 + z2 / 400)
    assert rate.value == pytest.approx(0.8)
    assert (rate.low, rate.high) == pytest.approx((center - half, center + half), abs=1e-7)
    assert (rate.low, rate.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert rate.n == 10
    assert str(rate) == "80.0% [49.0%, 94.3%]"


def test_extremes_have_intervals_and_nothing_has_none() -> None:
    won, lost = rate_of([1.0] * 20), rate_of([0.0] * 20)
    assert won.high == pytest.approx(1.0)
    assert won.low == pytest.approx(20 / (20 + Z_95**2))
    assert lost.low == pytest.approx(0.0)
    assert lost.high == pytest.approx(Z_95**2 / (20 + Z_95**2))
    assert rate_of([]) == NO_RATE
    assert length_controlled([], [], []) == NO_RATE
    assert str(NO_RATE) == "-"


def interval_of(rate: Rate) -> tuple[float, float]:
    assert rate.low is not None and rate.high is not None
    return rate.low, rate.high


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    for truth in (0.5, 0.8):
        rates = [rate_of(row.tolist()) for row in (rng.random((400, 60)) < truth).astype(float)]
        covered = np.mean([low <= truth <= high for low, high in map(interval_of, rates)])
        assert 0.92 <= covered <= 0.98


def naive_fit(feature: Floats, targets: Floats) -> tuple[float, float]:
    """The minimum of the same loss by halving a grid around it: slow, and with no derivative."""
    center, width = np.zeros(2), 8.0
    while width > 1e-7:
        steps = np.linspace(-width, width, 9)
        grid = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2) + center
        logits = grid[:, :1] + grid[:, 1:] * feature
        losses = (np.logaddexp(0, logits) - targets * logits).sum(-1)
        losses = losses + LENGTH_PENALTY / 2 * grid[:, 1] ** 2
        center, width = grid[np.argmin(losses)], width / 2
    return float(center[0]), float(center[1])


@pytest.mark.parametrize("seed", range(4))
def test_the_fit_is_that_of_a_search_without_derivatives(seed: int) -> None:
    rng = np.random.default_rng(seed)
    feature = np.tanh(rng.normal(0.4, 1, 80))
    chances = 1 / (1 + np.exp(-(0.4 - 1.5 * feature)))
    targets = (rng.random(80) < chances).astype(float)
    targets[rng.random(80) < 0.2] = 0.5
    (theta, phi), variance = fit_logistic(feature, targets)
    assert (theta, phi) == pytest.approx(naive_fit(feature, targets), abs=1e-5)
    curvature = np.zeros((2, 2))
    for value in feature:
        p = 1 / (1 + math.exp(-theta - phi * value))
        curvature += p * (1 - p) * np.outer((1, value), (1, value))
    curvature[1, 1] += LENGTH_PENALTY
    assert variance == pytest.approx(np.linalg.inv(curvature)[0, 0], rel=1e-6)


def test_length_explains_every_win_by_hand() -> None:
    """Longer wins 3 of 4 times either way: at equal lengths nobody is better.

    By symmetry theta is 0; phi is where tanh(1 / std) * (3/4 - logistic(phi * tanh)) balances.
    """
    wins = [1, 1, 1, 0, 0, 0, 0, 1]
    longer = [100] * 4 + [0] * 4
    shorter = [0] * 4 + [100] * 4
    rate = length_controlled(wins, longer, shorter)
    assert rate.value == pytest.approx(0.5)
    assert rate.high is not None and rate.low == pytest.approx(1 - rate.high)
    mostly_longer = length_controlled([*wins[:4] * 3, *wins[4:]], [100] * 12 + [0] * 4, [50] * 16)
    assert rate_of([*wins[:4] * 3, *wins[4:]]).value == pytest.approx(10 / 16)
    assert mostly_longer.value is not None and mostly_longer.value < 10 / 16


def test_the_rate_at_equal_lengths_is_found_again() -> None:
    """Better in truth (0.6 at equal lengths), and it writes more, which the judge likes."""
    rng = np.random.default_rng(7)
    extra = rng.normal(150, 200, 20_000)
    theta = math.log(0.6 / 0.4)
    chances = 1 / (1 + np.exp(-(theta + 1.2 * np.tanh(extra / extra.std(ddof=1)))))
    wins = (rng.random(20_000) < chances).astype(float)
    base = np.full(20_000, 1000.0)
    raw, controlled = (
        rate_of(wins.tolist()),
        length_controlled(*(one.tolist() for one in (wins, base + extra, base))),
    )
    assert raw.value is not None and raw.value > 0.68
    assert controlled.value == pytest.approx(0.6, abs=0.015)


def test_the_interval_at_equal_lengths_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    held = []
    for _ in range(300):
        extra = rng.normal(100, 150, 200)
        logits = 0.4 + 1.0 * np.tanh(extra / 150)
        wins = (rng.random(200) < 1 / (1 + np.exp(-logits))).astype(float)
        low, high = interval_of(length_controlled(wins.tolist(), extra.tolist(), [0.0] * 200))
        held.append(low <= 1 / (1 + math.exp(-0.4)) <= high)
    assert 0.92 <= np.mean(held) <= 0.98


def test_the_longer_one_wins_always_and_the_fit_exists() -> None:
    wins = [1.0] * 10 + [0.0] * 10
    rate = length_controlled(wins, [200] * 10 + [0] * 10, [100] * 20)
    assert rate.value == pytest.approx(0.5)


@pytest.mark.parametrize("wins", [[1.0] * 8, [0.0] * 8, [1.0, 0.5, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0]])
def test_without_a_fit_the_raw_rate_stands(wins: list[float]) -> None:
    """All won, all lost; and lengths that never differ, where there is nothing to control for."""
    lengths = list(range(8)) if len(set(wins)) == 1 else [5] * 8
    assert length_controlled(wins, lengths, [5] * 8) == rate_of(wins)


def test_agreement_and_ties() -> None:
    verdicts = [
        Verdict(key="a", preference=1.0, orders=(1.0, 1.0)),
        Verdict(key="b", preference=0.5, orders=(1.0, 0.0)),
        Verdict(key="c", preference=0.5, orders=(0.5, 0.5)),
        Verdict(key="d", preference=0.25, orders=(0.5, 0.0)),
    ]
    # verdicts for the answer shown first, ties apart: a yes and no, b yes and yes, d yes
    assert consistency_of(verdicts) == Consistency(
        agreement=0.5, first_share=0.8, contradicted=1, n=4
    )
    assert tied(verdicts) == 1, "b contradicts itself"
    assert consistency_of([Verdict(key="a", preference=1.0)]) is None
    assert tied([Verdict(key="a", preference=0.5, scores=(1.0, 1.0))]) == 1
    only_ties = consistency_of([Verdict(key="c", preference=0.5, orders=(0.5, 0.5))])
    assert str(only_ties) == "both orders agree 100.0%"
