"""Reading the new query out of a model's answer, malformed JSON included."""

import json
import re
from dataclasses import dataclass
from typing import Literal

from sso_data.chat.json_answers import json_values

_LABEL = re.compile(r"(?:new |the )?(?:query|question|prompt)\s*:\s*", re.IGNORECASE)
_QUOTES = (('"', '"'), ("'", "'"), ("“", "”"), ("«", "»"), ("„", "“"), ("「", "」"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """The reason for which an attempt gave no new query, which is counted, and a detail for people.

    `file` is the benchmark that the query overlaps with.
    """

    reason: str
    detail: str
    file: str | None = None


def read_answer(text: str, form: Literal["json", "text"]) -> str | Rejection:
    """The query in an answer, without white space around it, or why there is none."""
    text = text.strip()
    if not text:
        return Rejection(reason="empty", detail="the answer is blank")
    query = _from_json(text) if form == "json" else _from_text(text)
    if query is None:
        return Rejection(
            reason="unparsable", detail='no JSON object with the key "query" in the answer'
        )
    return query.strip() or Rejection(reason="empty", detail="the query is blank")


def _from_text(text: str) -> str:
    """The answer without a label before it and one pair of quotation marks around it."""
    text = text[match.end() :] if (match := _LABEL.match(text)) else text
    for left, right in _QUOTES:
        inner = text[1:-1]
        is_quoted = len(text) > 1 and text[0] == left and text[-1] == right
        if is_quoted and not set(inner) & {left, right}:
            return inner
    return text


def _from_json(text: str) -> str | None:
    """The query of the first object in the answer that has one; None where there is none."""
    values = sorted(json_values(text), key=lambda value: not isinstance(value, dict))
    if not values:
        try:
            values = [json.loads(text)]
        except (ValueError, RecursionError):
            return None
    query = next((found for value in values if (found := _query_of(value)) is not None), None)
    is_nested = query is not None and query.lstrip().startswith('{"query"')
    return (_from_json(query) if query and is_nested else None) or query


def _query_of(value: object, depth: int = 0) -> str | None:
    """The text under "query", or the only text of an object, or a text by itself."""
    if isinstance(value, str):
        return value
    if depth > 3 or not isinstance(value, dict | list) or not value:
        return None
    if isinstance(value, list):
        is_one = len(value) == 1 or isinstance(value[0], dict)
        return _query_of(value[0], depth + 1) if is_one else None
    if "query" in value:
        return value["query"] if isinstance(value["query"], str) else None
    texts = [one for one in value.values() if isinstance(one, str)]
    if len(texts) == len(value) == 1:
        return texts[0]
    inner = (_query_of(one, depth + 1) for one in value.values() if isinstance(one, dict))
    return next((found for found in inner if found is not None), None)
