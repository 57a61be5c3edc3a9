"""What a model said, read for what it holds: JSON wherever it stands, and nearly-JSON."""

import ast
import json
import re
import warnings
from collections.abc import Iterator
from typing import Any

MOST_CHARS = 20_000
"""So much of an answer is read."""

_MOST_OPENERS = 64
_FENCE = re.compile(r"```[\w-]*[ \t]*\r?\n?(.*?)```", re.DOTALL)
_OPENER = re.compile(r"[\[{]")
_TRAILING_COMMA = re.compile(r",(\s*[\]}])")
_QUOTES = str.maketrans({"\u201c": '"', "\u201d": '"', "\u201e": '"', "\u00ab": '"', "\u00bb": '"'})
_CLOSERS = {"[": "]", "{": "}"}
_DECODER = json.JSONDecoder(strict=False)


def answer_of(text: str) -> str:
    """The part of an answer that is read."""
    return text.strip()[:MOST_CHARS]


def json_values(text: str) -> Iterator[Any]:
    """The lists and objects in an answer, those in fences first.

    Forgiven are single quotes, curly quotes, Python's words, commas too many and closing brackets
    that are missing at the end.
    """
    fenced = [match.strip() for match in _FENCE.findall(text)]
    for part in (*fenced, text):
        yield from _values_in(part)


def _values_in(text: str) -> Iterator[Any]:
    position = 0
    for _ in range(_MOST_OPENERS):
        opener = _OPENER.search(text, position)
        if opener is None:
            return
        start = opener.start()
        found = _value_at(text, start)
        if found is None:
            position = start + 1
        else:
            value, position = found
            yield value


def _value_at(text: str, start: int) -> tuple[Any, int] | None:
    """The value that begins at `start` and where it ends, or None."""
    try:
        return _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        pass
    end, missing = _extent(text, start)
    candidate = text[start:end] + missing
    for attempt in (candidate, candidate.translate(_QUOTES)):
        value = _nearly_json(_TRAILING_COMMA.sub(r"\1", attempt))
        if value is not None:
            return value, end
    return None


def _nearly_json(text: str) -> Any:
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escape sequences that Python does not know
            value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return value if isinstance(value, list | dict) else None


def _extent(text: str, start: int) -> tuple[int, str]:
    """Where the bracket at `start` closes, and the closers that are missing at the text's end."""
    awaited: list[str] = []
    quote = ""
    position = start
    while position < len(text):
        char = text[position]
        if quote:
            if char == "\\":
                position += 1
            elif char == quote:
                quote = ""
        elif char == '"' or (char == "'" and not _is_apostrophe(text, position)):
            quote = char
        elif char in _CLOSERS:
            awaited.append(_CLOSERS[char])
        elif awaited and char == awaited[-1]:
            awaited.pop()
            if not awaited:
                return position + 1, ""
        position += 1
    return len(text), "" if quote else "".join(reversed(awaited))


def _is_apostrophe(text: str, position: int) -> bool:
    """Whether the single quote stands between letters, as in don't."""
    around = text[position - 1 : position] + text[position + 1 : position + 2]
    return len(around) == 2 and around.isalnum()
