"""Principles written for one request: what a model is asked, and whether its answer will do."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sso_data.core.jinja import Templates
from sso_data.core.language import is_another_language
from sso_data.core.records import Message
from sso_data.steering import checks
from sso_data.steering.answers import answer_of, json_values
from sso_data.steering.conversation import Conversation
from sso_data.steering.principles import Principle

TEMPLATE = "write.j2"

LEAST_WORDS, MOST_CHARS = 2, 1000
"""Fewest words and most characters of a principle."""

SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {"good": {"type": "string"}, "bad": {"type": "string"}},
    "required": ["good", "bad"],
    "additionalProperties": False,
}
"""The JSON schema of an answer."""

_SIDES = {
    "good": frozenset("good positive pro plus do chosen".split()),  # noqa: SIM905
    "bad": frozenset("bad negative con minus dont rejected".split()),  # noqa: SIM905
}
_SUFFIXES = re.compile(r"(?:principle|direction|guideline|side|text|version)s?$")
_MARKS = (("**", "**"), ('"', '"'), ("'", "'"), ("`", "`"), ("\u201c", "\u201d"))
_TEXT_KEYS = ("text", "principle", "direction", "guideline", "content", "description")
_LABEL = re.compile(
    r"^[^\w\n]*(good|bad|positive|negative)\b[^\n:\uff1a]{0,30}[:\uff1a][*_\s]*",
    re.IGNORECASE | re.MULTILINE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrincipleTexts:
    """A good and a bad principle, each on one line."""

    good: str
    bad: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a pair must keep to; `is_control` knows the policy's own control tokens."""

    length_ratio: float
    is_control: Callable[[str], bool]


def messages(
    conversation: Conversation, feature: Principle | None, templates: Templates
) -> tuple[Message, ...]:
    """The chat that asks for the two principles of a feature, or of any that fits."""
    return templates.messages(
        TEMPLATE,
        feature=feature.name if feature else "",
        meaning=feature.meaning if feature else "",
        adjectives=feature.adjectives.model_dump() if feature else {},
        **conversation.variables(),
    )


def read(text: str) -> PrincipleTexts | None:
    """The two sides that an answer holds, as JSON or under labels; None where one is missing."""
    answer = answer_of(text)
    for value in json_values(answer):
        sides = _sides(value)
        if sides.keys() == {"good", "bad"}:
            return _pair(sides)
    labelled = _labelled(answer)
    return _pair(labelled) if labelled.keys() == {"good", "bad"} else None


def problem(pair: PrincipleTexts, request: str, limits: Limits) -> str | None:
    """Why a pair will not do for a request, in one word, or None."""
    both = (pair.good, pair.bad)
    tests: tuple[tuple[str, Callable[[], bool]], ...] = (
        ("too_short", lambda: any(len(checks.words(text)) < LEAST_WORDS for text in both)),
        ("too_long", lambda: any(len(text) > MOST_CHARS for text in both)),
        ("unshowable", lambda: not all(map(checks.is_showable, both))),
        ("control_tokens", lambda: any(_holds_control(text, limits) for text in both)),
        ("leak", lambda: any(map(checks.speaks_of_itself, both))),
        ("same", lambda: checks.are_alike(*both)),
        ("unequal_length", lambda: checks.length_ratio(*both) > limits.length_ratio),
        ("quotes_request", lambda: any(checks.quotes(text, request) for text in both)),
        ("language", lambda: any(is_another_language(text, request) for text in both)),
    )
    return next((reason for reason, fails in tests if fails()), None)


def _holds_control(text: str, limits: Limits) -> bool:
    return checks.holds_control(text) or limits.is_control(text)


def _pair(sides: Mapping[str, str]) -> PrincipleTexts:
    return PrincipleTexts(good=_line(sides["good"]), bad=_line(sides["bad"]))


def _line(text: str) -> str:
    """A text as one line, without quotes or marks of emphasis around it."""
    line = " ".join(text.split())
    for first, last in _MARKS:
        if len(line) > len(first) + len(last) and line.startswith(first) and line.endswith(last):
            line = line[len(first) : -len(last)].strip()
    return line


def _sides(value: Any, depth: int = 0) -> dict[str, str]:
    """The sides that a JSON value names."""
    if depth > 3:
        return {}
    if isinstance(value, list):
        if len(value) == 2 and all(isinstance(part, str) for part in value):
            return dict(zip(("good", "bad"), value, strict=True))
        merged: dict[str, str] = {}
        for part in value:
            merged |= _sides(part, depth + 1) if isinstance(part, dict | list) else {}
        return merged
    if not isinstance(value, dict):
        return {}
    found = {
        side: text
        for key, part in value.items()
        if (side := _side_of(str(key))) and (text := _text_of(part))
    }
    if found:
        return found
    nested = [_sides(part, depth + 1) for part in value.values() if isinstance(part, dict | list)]
    return next((sides for sides in nested if sides), {})


def _side_of(key: str) -> str | None:
    plain = "".join(filter(str.isalpha, key.casefold()))
    stem = _SUFFIXES.sub("", plain) or plain
    return next((side for side, known in _SIDES.items() if stem in known), None)


def _text_of(value: Any) -> str:
    """The text of one side: a string, a list of sentences, or an object around a text."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return " ".join(value).strip()
    if isinstance(value, dict):
        texts = {str(key).casefold(): part for key, part in value.items()}
        return next(
            (texts[key].strip() for key in _TEXT_KEYS if isinstance(texts.get(key), str)), ""
        )
    return ""


def _labelled(answer: str) -> dict[str, str]:
    """The texts under labels such as `Good:` and `**Bad principle:**`, each once."""
    found: dict[str, str] = {}
    labels = list(_LABEL.finditer(answer))
    for number, label in enumerate(labels):
        end = labels[number + 1].start() if number + 1 < len(labels) else len(answer)
        side = _side_of(label[1])
        text = answer[label.end() : end].strip().removesuffix("```").strip()
        if side and text and side not in found:
            found[side] = text
    return found
