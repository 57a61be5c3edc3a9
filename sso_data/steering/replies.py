"""Replies of a model that steers: the features that it names, and the two principles it writes."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sso_data.chat.json_answers import bounded, json_values
from sso_data.steering.principles import Principle
from sso_data.steering.rules import TextPair

NAMES_NONE, NAMES_TOO_FEW, NO_PAIR = "no_feature", "too_few", "missing_side"
"""Reasons why a reply is unusable."""

_MAX_DEPTH = 3
_LIST_KEYS = ("features", "feature", "names", "chosen", "choice", "answer", "selected", "result")
_NAME_KEYS = ("name", "feature", "title", "principle")
_BULLET = re.compile(r"\s*(?:[-*+\u2022\u2013]|\(?\d{1,2}[.):]|[a-z][.)])\s+(.+)")
_SEPARATOR = re.compile(r"\s*(?:[,;|/&\u3001\uff0c]|\b(?:and|und|et|y)\b)\s*", re.IGNORECASE)
_HEAD = re.compile(r"\s*[:(\[\u2013\u2014=]|\s+-\s|[.!]\s")
_EDGES = re.compile(r"^[\W_]+|[\W_]+$")
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


def read_choice(text: str, features: Sequence[Principle], count: int) -> tuple[str, ...] | str:
    """Return the first `count` different features that a reply names, or why it is unusable.

    Accepts JSON lists and objects anywhere in the text, lists by bullets, numbers or commas, and a
    sentence that names exactly `count` features. Adjectives count as their features; unknown names
    are skipped.
    """
    names: dict[str, str] = {}
    for one in features:
        for word in (one.adjectives.good, one.adjectives.bad):
            names.setdefault(_plain(word), one.name)
    names |= {_plain(one.name): one.name for one in features}
    answer = bounded(text)
    best: tuple[str, ...] = ()
    for items in _readings(answer, names):
        found = tuple(dict.fromkeys(filter(None, (_match(item, names) for item in items))))
        if len(found) >= count:
            return found[:count]
        best = max(best, found, key=len)
    folded = unicodedata.normalize("NFKC", answer).casefold()
    places = {}
    for one in features:
        if place := re.search(rf"(?<!\w){re.escape(_plain(one.name))}(?!\w)", folded):
            places[one.name] = place.start()
    if len(places) == count:
        return tuple(sorted(places, key=places.__getitem__))
    return NAMES_TOO_FEW if best or places else NAMES_NONE


def _plain(text: str) -> str:
    """Return a name without case, width, and the quotes and marks around it."""
    folded = unicodedata.normalize("NFKC", text).casefold().replace("_", " ")
    return " ".join(_EDGES.sub("", folded).split())


def _match(item: str, names: Mapping[str, str]) -> str | None:
    """Return the feature that an item names, alone or before an explanation."""
    head = _HEAD.split(item, maxsplit=1)[0]
    return names.get(_plain(item)) or names.get(_plain(head))


def _readings(answer: str, names: Mapping[str, str]) -> Iterable[list[str]]:
    """Yield the lists that a reply may be meant as, the most certain first."""
    for value in json_values(answer):
        yield _items(value, names)
    lines = answer.splitlines()
    yield [match[1] for line in lines if (match := _BULLET.fullmatch(line))]
    for line in lines:
        items = _SEPARATOR.split(line.rpartition(":")[2])
        if all(_match(item, names) for item in items if item.strip()):
            yield items
    yield [line for line in lines if _match(line, names)]


def _items(value: Any, names: Mapping[str, str], depth: int = 0) -> list[str]:
    """Return the names in a JSON value, in its order.

    Of an object: those under a key such as `features`, else its keys that are features and not
    denied, else those in any of its values.
    """
    if depth > _MAX_DEPTH:
        return []
    if isinstance(value, str):
        return [value] if _match(value, names) else _SEPARATOR.split(value)
    if isinstance(value, list):
        return [item for part in value for item in _items(part, names, depth + 1)]
    if not isinstance(value, dict):
        return []
    by_key = {_plain(str(key)): part for key, part in value.items()}
    for wanted in _NAME_KEYS:
        if isinstance(by_key.get(wanted), str):
            return [by_key[wanted]]
    for wanted in _LIST_KEYS:
        if wanted in by_key:
            return _items(by_key[wanted], names, depth + 1)
    if any(_match(str(key), names) for key in value):
        return [str(key) for key, part in value.items() if part not in (False, None, 0)]
    return [item for part in value.values() for item in _items(part, names, depth + 1)]


def read_pair(text: str, writer: str) -> TextPair | None:
    """Return the two sides in a reply, as JSON or under labels such as `**Bad principle:**`.

    None where a side is missing.
    """
    answer, both = bounded(text), {"good", "bad"}
    found = next((s for s in map(_sides, json_values(answer)) if s.keys() == both), {})
    if not found:
        labels = list(_LABEL.finditer(answer))
        ends = [*(label.start() for label in labels[1:]), len(answer)]
        for label, end in zip(labels, ends, strict=False):
            side = _side_of(label[1])
            said = answer[label.end() : end].strip().removesuffix("```").strip()
            if side and said:
                found.setdefault(side, said)
    if found.keys() != both:
        return None
    return TextPair(good=_line(found["good"]), bad=_line(found["bad"]), by=writer)


def _line(text: str) -> str:
    """Return a text as one line, without quotes or emphasis around it."""
    line = " ".join(text.split())
    for first, last in _MARKS:
        if len(line) > len(first) + len(last) and line.startswith(first) and line.endswith(last):
            line = line[len(first) : -len(last)].strip()
    return line


def _sides(value: Any, depth: int = 0) -> dict[str, str]:
    """Return the sides that a JSON value names."""
    if depth > _MAX_DEPTH:
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
    nested = (_sides(part, depth + 1) for part in value.values() if isinstance(part, dict | list))
    return next((sides for sides in nested if sides), {})


def _side_of(key: str) -> str | None:
    plain = "".join(filter(str.isalpha, key.casefold()))
    stem = _SUFFIXES.sub("", plain) or plain
    return next((side for side, known in _SIDES.items() if stem in known), None)


def _text_of(value: Any) -> str:
    """Return the text of one side: a string, a list of sentences, or an object with a text."""
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
