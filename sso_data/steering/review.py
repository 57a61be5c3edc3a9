"""What is wrong with a catalogue that its files do not show one by one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from sso_data.core.language import is_another_language
from sso_data.steering import checks
from sso_data.steering.principles import Principle
from sso_data.steering.rules import FREE_FORM

MOST_RATIO, NOTICED_RATIO = 2.0, 1.3
"""Longer to shorter side of a pair: an error above the first, a warning above the second."""

NEAR_DUPLICATE = 0.5
"""Share of neighbouring words above which two features' texts are nearly the same."""

LEAST_WORDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong (`error`) or may be (`warning`) about a feature."""

    severity: Literal["error", "warning"]
    feature: str
    text: str


def review(principles: Sequence[Principle]) -> list[Finding]:
    """Everything that can be told by looking at the texts, errors first."""
    found = [finding for one in principles for finding in _of_one(one)]
    for one, other in combinations(principles, 2):
        found += _of_two(one, other)
    return sorted(found, key=lambda finding: finding.severity)


def _of_one(one: Principle) -> Iterator[Finding]:
    if one.name.casefold() == FREE_FORM:
        yield _error(one, "the name stands for pairs without a feature; choose another")
    if one.adjectives.good.casefold() == one.adjectives.bad.casefold():
        yield _error(one, "both adjectives are the same")
    goods = (one.good, *one.paraphrases.good)
    bads = (one.bad, *one.paraphrases.bad)
    for text in (*goods, *bads):
        yield from _of_text(one, text)
    yield from _of_sides(one, goods, bads)
    for texts in (goods, bads):
        for first, second in combinations(texts, 2):
            if checks.are_alike(first, second):
                yield _warning(one, f"two wordings are the same: {_start(first)}")


def _of_text(one: Principle, text: str) -> Iterator[Finding]:
    if checks.speaks_of_itself(text):
        yield _error(one, f"speaks of its instructions, which answers repeat: {_start(text)}")
    if checks.holds_control(text):
        yield _error(one, f"holds a control token: {_start(text)}")
    if len(checks.words(text)) < LEAST_WORDS:
        yield _warning(one, f"says very little: {_start(text)}")


def _of_sides(one: Principle, goods: Sequence[str], bads: Sequence[str]) -> Iterator[Finding]:
    if any(checks.are_alike(good, bad) for good in goods for bad in bads):
        yield _error(one, "a good and a bad text say the same")
    if len(goods) != len(bads):
        yield _warning(one, f"{len(goods)} good and {len(bads)} bad wordings; write as many")
        goods, bads = goods[:1], bads[:1]
    ratio = max(map(checks.length_ratio, goods, bads))
    if ratio > NOTICED_RATIO:
        what = f"a side is {ratio:.1f} times as long as its opposite; length would tell them apart"
        yield _error(one, what) if ratio > MOST_RATIO else _warning(one, what)
    if is_another_language(one.bad, one.good):
        yield _warning(one, "its sides are in two languages")


def _of_two(one: Principle, other: Principle) -> Iterator[Finding]:
    if one.name.casefold() == other.name.casefold():
        yield _error(one, f"differs from {other.name} in case only")
    for side in ("good", "bad"):
        here, there = getattr(one, side), getattr(other, side)
        if checks.are_alike(here, there):
            yield _error(one, f"its {side} text is that of {other.name}")
        elif checks.likeness(here, there) > NEAR_DUPLICATE:
            yield _warning(one, f"its {side} text is much like that of {other.name}")
    if one.adjectives.good.casefold() == other.adjectives.good.casefold():
        yield _warning(one, f"has the adjective of {other.name}: {one.adjectives.good}")


def _error(one: Principle, text: str) -> Finding:
    return Finding(severity="error", feature=one.name, text=text)


def _warning(one: Principle, text: str) -> Finding:
    return Finding(severity="warning", feature=one.name, text=text)


def _start(text: str) -> str:
    return f"{text[:40]!r}..." if len(text) > 40 else repr(text)
