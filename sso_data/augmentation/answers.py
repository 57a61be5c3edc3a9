"""Reading the new query out of a model's answer, malformed JSON included."""

import ast
import json
import re
from dataclasses import dataclass
from typing import Any, Literal

_FENCE = re.compile(r"```[a-zA-Z0-9_-]*[ \t]*\n(.*?)\n?```", re.DOTALL)
_LABEL = re.compile(r"(?:new |the )?(?:query|question|prompt)\s*:\s*", re.IGNORECASE)
_QUOTES = (('"', '"'), ("'", "'"), ("“", "”"), ("«", "»"), ("„", "“"), ("「", "」"))
_MOST_STARTS = 8
"""The most places in an answer at which an object is looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """Why an attempt gave no new query: a reason that is counted, and a detail for a person.

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
    fenced = _FENCE.search(text)
    for part in (fenced.group(1), text) if fenced else (text,):
        for value in _values(part):
            query = _query_of(value)
            if query is not None:
                again = _from_json(query) if query.lstrip().startswith('{"query"') else None
                return again if again is not None else query
    return None


def _values(text: str) -> list[Any]:
    """The JSON values in a text, objects first; a Python literal counts as well."""
    decoder = json.JSONDecoder(strict=False)  # line breaks in strings are accepted
    found: list[Any] = []
    starts = [match.start() for match in re.finditer(r"\{", text)][:_MOST_STARTS]
    for start in starts if starts else [0]:
        try:
            found.append(decoder.raw_decode(text, start)[0])
        except (ValueError, RecursionError):
            continue
    if starts and not found and (end := text.rfind("}")) > 0:
        try:
            found.append(ast.literal_eval(text[starts[0] : end + 1]))
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            return []
    return found


def _query_of(value: object) -> str | None:
    """The text under "query", or the only text of an object, or a text by itself."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and len(value) == 1:
        return _query_of(value[0])
    if not isinstance(value, dict):
        return None
    if "query" in value:
        return value["query"] if isinstance(value["query"], str) else None
    texts = [one for one in value.values() if isinstance(one, str)]
    return texts[0] if len(texts) == len(value) == 1 else None
