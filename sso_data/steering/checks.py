"""Checks of principle texts: one text, a pair written for a request, and a whole catalogue."""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from sso_data.chat.answer_checks import Examples, control_token, opening
from sso_data.core.jinja import phrases
from sso_data.core.language import is_another_language
from sso_data.core.words import containment, holds, likeness, normal, runs, words
from sso_data.runs.columns import leaks
from sso_data.steering.principles import Principle
from sso_data.steering.rules import FREE_FORM, TextPair

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

MAX_LIKENESS, MAX_CONTAINED = 0.4, 0.7
"""Most that the sides of a written pair may have in common.

Pairs of neighbouring words, of all and of the shorter side. The pairs of the shipped catalogue lie
at .15 and .28 and below, their paraphrases, which are built alike, at .39 and .59 and below.
"""

_FILLERS = frozenset("a an the and or to of in please very really".split())  # noqa: SIM905
_NEGATIONS = frozenset("no not never nor without avoid don less nicht kein keine ohne".split())  # noqa: SIM905
_END = re.compile(r"[.!?…。！？।][\"'”’»)\]]*$")
_STATEMENT = re.compile(
    r"^\W*(?:\d|[\w-]+(?:['’]s|\s+(?:is|are|was|were|has|have|had|means|ist|sind|war|est|sont))\s)"
)
_LEAVE = (
    r"\b(?:ignor(?:e|a|ez|ier\w*)|disregard|forget|override|vergiss|oublie[rz]?|olvida"
    r"|skip (?:the|this|your) (?:task|request|question)"
    r"|(?:do not|don['’]t|never|stop) (?:follow|obey)(?:ing)?)\b"
)
_TOLD = (
    r"(?:everything|anything|all|above|this|previous|prior|earlier|your|instructions?|orders?|task"
    r"|alle[sn]?|tout|todo)\b"
)
_SAY = (
    r"\b(?:write|say|print|output|reply|answer|respond|schreib\w*|sag\w*|antworte\w*|écri\w+"
    r"|répond\w*|escrib\w+|respond\w+)\b(?:\s+(?:with|only|just|that|exactly|nur|mit))*"
)
_ORDER = re.compile(rf"{_LEAVE}.{{0,300}}?{_SAY}(.+)", re.IGNORECASE | re.DOTALL)
"""An order to whoever reads a request: leave what you were told and write something."""

_VOICE = r"(?:^|\n|[.!?]\s)\W*(?:system|developer|admin)\W*:"
_DIRECTS = r"\byour (?:\w+ )?(?:direction|instruction|principle)s? (?:must|should|shall|will) be\b"
_TAKEOVERS = tuple(
    re.compile(pattern, re.IGNORECASE | re.DOTALL)
    for pattern in (
        rf"(?:{_LEAVE}(?:\W+\w+){{0,2}}?\W+{_TOLD}|{_VOICE}|\bfrom now on\b).{{0,300}}?{_SAY}(.+)",
        rf"{_SAY}([^.!?\n]{{1,200}}){_LEAVE}(?:\W+\w+){{0,2}}?\W+{_TOLD}",
        rf"(?:\bnew (?:direction|instruction|order|task)s?\s*:|{_DIRECTS})\W*(.+)",
    )
)
"""Orders that can be meant in no other way, each with what is to be said: leave all that you were
told, or an operator's voice, and write something; write it and leave all else; new directions."""

_TO_ITS_READER = re.compile(
    rf"{_VOICE}|{_DIRECTS}|{_LEAVE}(?:\W+(?:the\W+)?(?:all|any|of|these|your|previous|prior|earlier"
    r"|above|other))+\W+(?:direction|instruction|order|prompt)s?\b",
    re.IGNORECASE,
)
"""A text that speaks to its reader about instructions, whatever the request is."""

_LOUD = re.compile(r"\b[A-Z]{3,}\b(?:\s+[A-Z]{2,}\b)*|\b[A-Z]\w+(?:\s+[A-Z]\w+)+")
"""Words in capitals, and names of several words: alone they show that an order was followed."""

_ORDERED_WORDS = 3


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


def quotes(text: str, request: str) -> bool:
    """Return True when `text` copies a passage of `request`, or the whole of a short one."""
    asked, said = words(request), words(text)
    signs = sum(len(word) == 1 and not word.isascii() for word in asked)
    size = QUOTED_SIGNS if 2 * signs > len(asked) else QUOTED_WORDS
    if len(asked) < size:
        size = len(asked)
        if size < SHORT_REQUEST:
            return False
    return not runs(asked, size).isdisjoint(runs(said, size))


def is_showable(text: str) -> bool:
    """Return True when the text has no control, surrogate or private-use characters."""
    return all(unicodedata.category(char) not in ("Cc", "Cs", "Co") for char in text)


def problem(
    pair: TextPair, request: str, *, max_ratio: float, is_control: Callable[[str], bool]
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
        ("control_tokens", lambda: any(control_token(t) or is_control(t) for t in both)),
        ("leak", lambda: any(map(leaks, both))),
        ("same", lambda: are_alike(*both)),
        ("unequal_length", lambda: length_ratio(*both) > max_ratio),
        ("quotes_request", lambda: any(quotes(text, request) for text in both)),
        ("language", lambda: any(is_another_language(text, request) for text in both)),
    )
    return next((reason for reason, fails in tests if fails()), None)


def content_problem(
    pair: TextPair, request: str, feature: Principle | None, examples: Examples
) -> str | None:
    """Return why a pair of sound form gives no two opposite directions, in one word, or None.

    `feature` is the one that the texts are of (None: any); `examples` are those that the model was
    shown.
    """
    both = (pair.good, pair.bad)
    tests: tuple[tuple[str, Callable[[], bool]], ...] = (
        ("copied_example", lambda: any(map(examples.lend, both))),
        ("refusal", lambda: any(map(refuses, both))),
        ("injected", lambda: any(obeys(text, request) for text in both)),
        ("no_direction", lambda: not all(map(is_direction, both))),
        ("unfinished", lambda: not all(_END.search(text.strip()) for text in both)),
        ("alike", lambda: likeness(*both) > MAX_LIKENESS),
        ("contained", lambda: containment(*both) > MAX_CONTAINED),
        ("swapped", lambda: feature is not None and are_swapped(pair, feature)),
    )
    return next((reason for reason, fails in tests if fails()), None)


def refuses(text: str) -> bool:
    """Return True for a text that refuses or asks for a refusal (templates/refusals.txt)."""
    lower = text.replace("’", "'").lower()
    return any(phrase in lower for phrase in phrases("refusals.txt"))


def is_direction(text: str) -> bool:
    """Return False for a text that begins as an answer, a statement, a list, or a question.

    By its opening (templates/not_directions.txt) and its first verb; an answer that begins with an
    imperative, such as a recipe, cannot be told from a direction.
    """
    is_question = text.rstrip(" \"'”»").endswith(("?", "？"))
    is_answer = opening(text, "not_directions.txt") or opening(text, "not_queries.txt")
    return not (is_question or is_answer or _STATEMENT.match(text))


def obeys(text: str, request: str) -> bool:
    """Return True when `text` says what a request orders ("ignore this and write ..."), or orders.

    It says an order of up to three words as a whole, of a longer one three words in a row; of an
    order that takes over, also its words in capitals or a name.
    """
    if _TO_ITS_READER.search(text):
        return True
    if (order := _ORDER.search(request)) and _says(text, order[1]):
        return True
    takeovers = (pattern.search(request) for pattern in _TAKEOVERS)
    return any(_says(text, one[1]) or _shouts(text, one[1]) for one in takeovers if one)


def _says(text: str, order: str) -> bool:
    ordered = words(order)
    if len(ordered) <= _ORDERED_WORDS:
        return bool(ordered) and holds(normal(text), " ".join(ordered))
    return not runs(ordered, _ORDERED_WORDS).isdisjoint(runs(words(text), _ORDERED_WORDS))


def _shouts(text: str, order: str) -> bool:
    """Return True when `text` holds a loud word of the first sentence of `order`."""
    sentence = re.split(r"[.!?\n]", order.lstrip(" :\n\"'"), maxsplit=1)[0]
    return any(holds(normal(text), normal(word)) for word in _LOUD.findall(sentence))


def are_swapped(pair: TextPair, feature: Principle) -> bool:
    """Return True when the good side asks for the bad adjective, and the bad side does not.

    An adjective with a negation among the three words before it does not count.
    """
    wanted = words(feature.adjectives.bad)

    def asks(text: str) -> bool:
        said = words(text)
        places = [n for n in range(len(said)) if said[n : n + len(wanted)] == wanted]
        return any(_NEGATIONS.isdisjoint(said[max(0, n - 3) : n]) for n in places)

    return asks(pair.good) and not asks(pair.bad)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFinding:
    """One thing that is wrong (`error`) or may be (`warning`) about a feature."""

    severity: Literal["error", "warning"]
    feature: str
    text: str


def review(principles: Sequence[Principle]) -> list[TextFinding]:
    """Return all findings about a catalogue's texts, errors first."""
    found = [finding for one in principles for finding in _of_one(one)]
    for one, other in combinations(principles, 2):
        if one.name.casefold() == other.name.casefold():
            found.append(_error(one, f"differs from {other.name} in case only"))
        for side in ("good", "bad"):
            here, there = getattr(one, side), getattr(other, side)
            if are_alike(here, there):
                found.append(_error(one, f"its {side} text equals that of {other.name}"))
            elif likeness(here, there) > NEAR_DUPLICATE:
                found.append(_warning(one, f"its {side} text is much like that of {other.name}"))
        if one.adjectives.good.casefold() == other.adjectives.good.casefold():
            text = f"has the adjective of {other.name}: {one.adjectives.good}"
            found.append(_warning(one, text))
    return sorted(found, key=lambda finding: finding.severity)


def _of_one(one: Principle) -> Iterator[TextFinding]:
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
        if control_token(text):
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


def _error(one: Principle, text: str) -> TextFinding:
    return TextFinding(severity="error", feature=one.name, text=text)


def _warning(one: Principle, text: str) -> TextFinding:
    return TextFinding(severity="warning", feature=one.name, text=text)
