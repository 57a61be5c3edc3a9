"""Paired differences of the study, their intervals and p-values, and what remains of them when all
are corrected together."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from benchmarks.claims_grid import CHANGED, ROUNDS, STUDIES, Claim, Point, declared

Line = Mapping[str, Any]
"""A measurement: a line of docs/claims.jsonl."""
ERROR = 0.05
"""Of an interval, and of all comparisons together (Holm)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over `n` values with the half-width of its 95 % interval (Student's t)."""

    mean: float
    half: float
    n: int

    @property
    def low(self) -> float:
        return self.mean - self.half

    @property
    def high(self) -> float:
        return self.mean + self.half


def estimate(values: Sequence[float]) -> Estimate:
    """The mean and its interval; of fewer than two values the interval is infinite."""
    from scipy.stats import t

    if len(values) < 2:
        mean = values[0] if values else math.nan
        return Estimate(mean=mean, half=math.inf, n=len(values))
    half = float(t.ppf(1 - ERROR / 2, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return Estimate(mean=fmean(values), half=half, n=len(values))


def p_value(values: Sequence[float], null: float) -> float:
    """Two-sided, of Student's t that the mean is `null`; 1 of fewer than two values."""
    from scipy.stats import t

    if len(values) < 2:
        return 1.0
    error = stdev(values) / math.sqrt(len(values))
    distance = abs(fmean(values) - null)
    if not error:
        return float(not distance)
    return 2 * float(t.sf(distance / error, len(values) - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (Scandinavian Journal of Statistics 6, 1979), in the given order.

    The k-th smallest of n (k from 0) times n - k, at least the one before it, at most 1.
    """
    adjusted, reached = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        reached = max(reached, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = reached
    return adjusted


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A claim by one of its measures: pooled and for each checkpoint, alone and corrected.

    `word` is the verdict by the 95 % interval; `adjusted` is Holm's p-value of the pooled
    difference, over all comparisons of the page.
    """

    claim: Claim
    at: Point
    pooled: Estimate
    by_checkpoint: Mapping[str, Estimate]
    word: str
    adjusted: float

    @property
    def remains(self) -> bool:
        """Whether a verdict of `holds` or `reversed` is still one after the correction."""
        return self.word in ("holds", "reversed") and self.adjusted <= ERROR

    @property
    def signs_differ(self) -> bool:
        """Whether the difference is above zero on one checkpoint and below on another."""
        means = [one.mean for one in self.by_checkpoint.values()]
        return bool(means) and min(means) < 0 < max(means)


def judged(lines: Sequence[Line]) -> list[Judged]:
    """Every claim by every measure, in the order of `claims.yaml`; `end` before `data`.

    All that have been run are one family for the correction.
    """
    points: tuple[tuple[Claim, Point], ...] = tuple(
        (claim, at)
        for claim in declared()
        for at in (("end", "data") if claim.metric in CHANGED else ("end",))
    )
    found = [differences(claim, at, lines) for claim, at in points]
    values = [[value for one in given.values() for value in one] for given in found]
    run = [place for place, given in enumerate(values) if given]
    nulls = [-claim.margin if claim.wants == "kept" else 0.0 for claim, _ in points]
    adjusted = dict(zip(run, holm([p_value(values[at], nulls[at]) for at in run]), strict=True))
    return [
        Judged(
            claim=claim,
            at=at,
            pooled=estimate(values[place]),
            by_checkpoint={name: estimate(given) for name, given in found[place].items()},
            word=verdict(claim, estimate(values[place])),
            adjusted=adjusted.get(place, math.nan),
        )
        for place, (claim, at) in enumerate(points)
    ]


def differences(claim: Claim, at: Point, lines: Iterable[Line]) -> dict[str, list[float]]:
    """Checkpoint -> `arm` minus `against`, for every seed that has both."""
    found: dict[tuple[str, int], dict[str, float]] = {}
    for line in lines:
        if _belongs(line, claim) and (side := _side(line, claim, at)):
            place = line["checkpoint"], line["seed"]
            found.setdefault(place, {})[side] = _value(line, claim.metric)
    differing: dict[str, list[float]] = {}
    for (checkpoint, _), sides in found.items():
        if {claim.arm, claim.against} <= sides.keys():
            value = sides[claim.arm] - sides[claim.against]
            differing.setdefault(checkpoint, []).append(value)
    return differing


def _side(line: Line, claim: Claim, at: Point) -> str | None:
    """Which side of the claim a line speaks for, if any: of the last point, or of the first."""
    on, last = ("round", ROUNDS - 1) if at == "data" else ("held-out", ROUNDS)
    if line["on"] != on or line["arm"] not in (claim.arm, claim.against):
        return None
    if line["trained"] == last or claim.study == "reward":
        return str(line["arm"])
    is_start = not line["trained"] and claim.against == "start" and line["arm"] == claim.arm
    return "start" if is_start else None


def _belongs(line: Line, claim: Claim) -> bool:
    """Whether a line is of the claim's study; the secondary one is paired with primary chains."""
    checkpoints, seeds, _ = STUDIES[claim.study]
    studies = {claim.study, "primary"} if claim.study == "secondary" else {claim.study}
    return line["study"] in studies and line["checkpoint"] in checkpoints and line["seed"] in seeds


def _value(line: Line, metric: str) -> float:
    if metric == "tokens_growth":
        return math.log(line["tokens_plain"])
    return float(line[metric])


def verdict(claim: Claim, found: Estimate) -> str:
    """`holds`, `reversed`, `no difference` (the whole interval is smaller than the margin),
    `not shown`, or `not run`."""
    if not found.n:
        return "not run"
    if claim.wants == "kept":
        if found.low > -claim.margin:
            return "holds"
        return "reversed" if found.high < -claim.margin else "not shown"
    sign = 1 if claim.wants == "more" else -1
    low, high = sorted((sign * found.low, sign * found.high))
    if low > 0 and sign * found.mean >= claim.margin:
        return "holds"
    if high < 0 and -sign * found.mean >= claim.margin:
        return "reversed"
    return "no difference" if -claim.margin < low and high < claim.margin else "not shown"
