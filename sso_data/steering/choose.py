"""Features chosen by the policy: what it is asked, and what its answer names."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sso_data.core.jinja import Templates
from sso_data.core.records import Message
from sso_data.steering.answers import answer_of, json_values
from sso_data.steering.conversation import Conversation
from sso_data.steering.principles import Principle

TEMPLATE = "choose.j2"

NAMES_NONE, NAMES_TOO_FEW = "no_feature", "too_few"
"""Why an answer is of no use."""

_LIST_KEYS = ("features", "feature", "names", "chosen", "choice", "answer", "selected", "result")
_NAME_KEYS = ("name", "feature", "title", "principle")
_BULLET = re.compile(r"\s*(?:[-*+\u2022\u2013]|\(?\d{1,2}[.):]|[a-z][.)])\s+(.+)")
_SEPARATOR = re.compile(r"\s*(?:[,;|/&\u3001\uff0c]|\b(?:and|und|et|y)\b)\s*", re.IGNORECASE)
_HEAD = re.compile(r"\s*[:(\[\u2013\u2014=]|\s+-\s|[.!]\s")
_EDGES = re.compile(r"^[\W_]+|[\W_]+$")


def messages(
    conversation: Conversation, features: Sequence[Principle], count: int, templates: Templates
) -> tuple[Message, ...]:
    """The chat that asks for `count` of the features, shown in this order."""
    offered = [
        {
            "name": one.name,
            "meaning": one.meaning,
            "good_adjective": one.adjectives.good,
            "bad_adjective": one.adjectives.bad,
        }
        for one in features
    ]
    return templates.messages(TEMPLATE, features=offered, count=count, **conversation.variables())


def schema(features: Iterable[Principle], count: int) -> dict[str, Any]:
    """The JSON schema of an answer: a list of `count` names; the same for every order."""
    names = sorted(one.name for one in features)
    return {
        "type": "array",
        "items": {"type": "string", "enum": names},
        "minItems": count,
        "maxItems": count,
    }


def read(text: str, features: Sequence[Principle], count: int) -> tuple[str, ...] | str:
    """The first `count` different features that an answer names, or why it is of no use.

    Understood are JSON lists and objects anywhere in the text, lists by bullets, numbers or commas,
    and a sentence that names exactly `count` features. Adjectives stand for their features; what
    is unknown is passed over.
    """
    names = _names(features)
    answer = answer_of(text)
    best: tuple[str, ...] = ()
    for items in _readings(answer, names):
        found = tuple(dict.fromkeys(filter(None, (_match(item, names) for item in items))))
        if len(found) >= count:
            return found[:count]
        best = max(best, found, key=len)
    named = _named_in(answer, features)
    if len(named) == count:
        return named
    return NAMES_TOO_FEW if best or named else NAMES_NONE


def _names(features: Sequence[Principle]) -> dict[str, str]:
    """What may stand for each feature: its name before all, then its two adjectives."""
    known: dict[str, str] = {}
    for one in features:
        for word in (one.adjectives.good, one.adjectives.bad):
            known.setdefault(_plain(word), one.name)
    return known | {_plain(one.name): one.name for one in features}


def _plain(text: str) -> str:
    """A name without case, width, quotes and marks around it."""
    folded = unicodedata.normalize("NFKC", text).casefold().replace("_", " ")
    return " ".join(_EDGES.sub("", folded).split())


def _match(item: str, names: Mapping[str, str]) -> str | None:
    """The feature that an item stands for, alone or before an explanation."""
    head = _HEAD.split(item, maxsplit=1)[0]
    return names.get(_plain(item)) or names.get(_plain(head))


def _readings(answer: str, names: Mapping[str, str]) -> Iterable[list[str]]:
    """The lists that an answer may be meant as, the surest first."""
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
    """The names in a JSON value, in its order."""
    if depth > 3:
        return []
    if isinstance(value, str):
        return [value] if _match(value, names) else _SEPARATOR.split(value)
    if isinstance(value, list):
        return [item for part in value for item in _items(part, names, depth + 1)]
    return _items_of_object(value, names, depth) if isinstance(value, dict) else []


def _items_of_object(value: dict[Any, Any], names: Mapping[str, str], depth: int) -> list[str]:
    """The names in an object: under a telling key, as keys that are not denied, or anywhere."""
    texts = {str(key): part for key, part in value.items()}
    by_key = {_plain(key): part for key, part in texts.items()}
    for wanted in _NAME_KEYS:
        if isinstance(by_key.get(wanted), str):
            return [by_key[wanted]]
    for wanted in _LIST_KEYS:
        if wanted in by_key:
            return _items(by_key[wanted], names, depth + 1)
    if any(_match(key, names) for key in texts):
        return [key for key, part in texts.items() if part not in (False, None, 0)]
    return [item for part in texts.values() for item in _items(part, names, depth + 1)]


def _named_in(answer: str, features: Sequence[Principle]) -> tuple[str, ...]:
    """The features whose names stand in a text as words, in their order there."""
    folded = unicodedata.normalize("NFKC", answer).casefold()
    places = {}
    for one in features:
        found = re.search(rf"(?<!\w){re.escape(_plain(one.name))}(?!\w)", folded)
        if found:
            places[one.name] = found.start()
    return tuple(sorted(places, key=places.__getitem__))
