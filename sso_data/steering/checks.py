"""Checks of principle texts: one text, a pair written for a request, and a whole catalogue."""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from sso_data.core.language import is_another_language
from sso_data.runs.columns import leaks
from sso_data.steering.principles import Principle
from sso_data.steering.rules import FREE_FORM, Text

QUOTED_WORDS, QUOTED_SIGNS = 6, 12
"""This many words in a row, or characters of a script without spaces, are a quotation."""

SHORT_REQUEST = 3
"""A request of at least this many words is a quotation when it is repeated as a whole."""

MIN_WORDS, MAX_CHARS = 2, 1000
"""Fewest words and most characters of a written principle."""

MAX_RATIO, NOTICED_RATIO = 2.0, 1.3
"""Longer to shorter side of a catalogue's pair: above the first an error, else a warning."""

NEAR_DUPLICATE = 0.5
"""Likeness of two features' texts above which a review warns."""

REVIEWED_WORDS = 3
"""Fewest words of a catalogue's text without a warning."""

_WORD = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_]+"
)
"""A word, or one character of Thai, Lao, Burmese, Khmer, Japanese or Chinese."""

_FILLERS = frozenset("a an the and or to of in please very really".split())  # noqa: SIM905
_CONTROL = re.compile(r"<\|[^|>\n]{1,40}\|>|\[/?INST\]|<</?SYS>>|</?s>|<(?:start|end)_of_turn>")


def words(text: str) -> list[str]:
    """Return the case-folded words of a text; in scripts without spaces, its characters."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def length_ratio(one: str, other: str) -> float:
    """Return the length of the longer text as a multiple of the shorter one's, in characters."""
    short, long = sorted((len(one), len(other)))
    return long / short if short else float("inf")


def are_alike(one: str, other: str) -> bool:
    """Return True for two texts of the same words in any order, fillers ignored.

    Opposites may differ in a single word ("right" and "wrong", "not"), so that no measure of
    similarity tells them from duplicates; the set of words does.
    """
    first, second = (
        sorted(word for word in words(text) if word not in _FILLERS) for text in (one, other)
    )
    return first == second


def likeness(one: str, other: str) -> float:
    """Return the Jaccard similarity of two texts' pairs of neighbouring words, 0 to 1."""
    first, second = _ngrams(words(one), 2), _ngrams(words(other), 2)
    return len(first & second) / len(first | second) if first | second else 0.0


def quotes(text: str, request: str) -> bool:
    """Return True when `text` copies a passage of `request`, or the whole of a short one."""
    asked, said = words(request), words(text)
    signs = sum(len(word) == 1 and not word.isascii() for word in asked)
    size = QUOTED_SIGNS if 2 * signs > len(asked) else QUOTED_WORDS
    if len(asked) < size:
        size = len(asked)
        if size < SHORT_REQUEST:
            return False
    return not _ngrams(asked, size).isdisjoint(_ngrams(said, size))


def holds_control(text: str) -> bool:
    """Return True when the text holds something like a control token of any chat template."""
    return bool(_CONTROL.search(text))


def is_showable(text: str) -> bool:
    """Return True when the text has no control, surrogate or private-use characters."""
    return all(unicodedata.category(char) not in ("Cc", "Cs", "Co") for char in text)


def problem(
    pair: Text, request: str, *, max_ratio: float, is_control: Callable[[str], bool]
) -> str | None:
    """Return why a written pair is unusable for a request, in one word, or None.

    `max_ratio` is the longest length of one text as a multiple of the other's; `is_control`
    recognises the policy's own control tokens.
    """
    both = (pair.good, pair.bad)
    tests: tuple[tuple[str, Callable[[], bool]], ...] = (
        ("too_short", lambda: any(len(words(text)) < MIN_WORDS for text in both)),
        ("too_long", lambda: any(len(text) > MAX_CHARS for text in both)),
        ("unshowable", lambda: not all(map(is_showable, both))),
        ("control_tokens", lambda: any(holds_control(t) or is_control(t) for t in both)),
        ("leak", lambda: any(map(leaks, both))),
        ("same", lambda: are_alike(*both)),
        ("unequal_length", lambda: length_ratio(*both) > max_ratio),
        ("quotes_request", lambda: any(quotes(text, request) for text in both)),
        ("language", lambda: any(is_another_language(text, request) for text in both)),
    )
    return next((reason for reason, fails in tests if fails()), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong (`error`) or may be (`warning`) about a feature."""

    severity: Literal["error", "warning"]
    feature: str
    text: str


def review(principles: Sequence[Principle]) -> list[Finding]:
    """Return all findings about a catalogue's texts, errors first."""
    found = [finding for one in principles for finding in _of_one(one)]
    for one, other in combinations(principles, 2):
        found += _of_two(one, other)
    return sorted(found, key=lambda finding: finding.severity)


def _of_one(one: Principle) -> Iterator[Finding]:
    """Findings about one principle and its paraphrases."""
    if one.name.casefold() == FREE_FORM:
        yield _error(one, "the name is reserved for pairs without a feature; choose another")
    if one.adjectives.good.casefold() == one.adjectives.bad.casefold():
        yield _error(one, "both adjectives are the same")
    goods = (one.good, *one.paraphrases.good)
    bads = (one.bad, *one.paraphrases.bad)
    for text in (*goods, *bads):
        start = f"{text[:40]!r}..." if len(text) > 40 else repr(text)
        if leaks(text):
            yield _error(one, f"speaks of its instructions, which answers repeat: {start}")
        if holds_control(text):
            yield _error(one, f"holds a control token: {start}")
        if len(words(text)) < REVIEWED_WORDS:
            yield _warning(one, f"says very little: {start}")
    if any(are_alike(good, bad) for good in goods for bad in bads):
        yield _error(one, "a good and a bad text are the same")
    if len(goods) != len(bads):
        yield _warning(one, f"{len(goods)} good and {len(bads)} bad wordings; write as many")
    pairs = zip(goods, bads, strict=True) if len(goods) == len(bads) else [(one.good, one.bad)]
    ratio = max(length_ratio(good, bad) for good, bad in pairs)
    if ratio > NOTICED_RATIO:
        what = f"a side is {ratio:.1f} times as long as its opposite; length would tell them apart"
        yield _error(one, what) if ratio > MAX_RATIO else _warning(one, what)
    if is_another_language(one.bad, one.good):
        yield _warning(one, "its good and bad texts are in different languages")
    for texts in (goods, bads):
        for first, second in combinations(texts, 2):
            if are_alike(first, second):
                yield _warning(one, f"two wordings are the same: {first[:40]!r}")


def _of_two(one: Principle, other: Principle) -> Iterator[Finding]:
    """Findings about a principle next to another one."""
    if one.name.casefold() == other.name.casefold():
        yield _error(one, f"differs from {other.name} in case only")
    for side in ("good", "bad"):
        here, there = getattr(one, side), getattr(other, side)
        if are_alike(here, there):
            yield _error(one, f"its {side} text equals that of {other.name}")
        elif likeness(here, there) > NEAR_DUPLICATE:
            yield _warning(one, f"its {side} text is much like that of {other.name}")
    if one.adjectives.good.casefold() == other.adjectives.good.casefold():
        yield _warning(one, f"has the adjective of {other.name}: {one.adjectives.good}")


def _error(one: Principle, text: str) -> Finding:
    return Finding(severity="error", feature=one.name, text=text)


def _warning(one: Principle, text: str) -> Finding:
    return Finding(severity="warning", feature=one.name, text=text)


def _ngrams(found: list[str], size: int) -> set[tuple[str, ...]]:
    return {tuple(found[start : start + size]) for start in range(len(found) - size + 1)}
