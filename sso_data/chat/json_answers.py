"""JSON in a model's answer: in a fence or in prose, and with the mistakes that models make."""

import ast
import json
import re
import warnings
from collections.abc import Iterator
from typing import Any

MAX_CHARS = 20_000
"""Characters of an answer that are read."""

_MAX_OPENERS = 64
_FENCE = re.compile(r"```[\w-]*[ \t]*\r?\n?(.*?)```", re.DOTALL)
_OPENER = re.compile(r"[\[{]")
_TRAILING_COMMA = re.compile(r",(\s*[\]}])")
_QUOTES = str.maketrans({"\u201c": '"', "\u201d": '"', "\u201e": '"', "\u00ab": '"', "\u00bb": '"'})
_CLOSERS = {"[": "]", "{": "}"}
_DECODER = json.JSONDecoder(strict=False)


def bounded(text: str) -> str:
    """Return the part of an answer that is read."""
    return text.strip()[:MAX_CHARS]


def json_values(text: str) -> Iterator[Any]:
    """Yield the lists and objects in an answer, those in fences first.

    Accepts single and curly quotes, Python's literals, trailing commas, and closing brackets that
    are missing at the end; a string that is cut off is not completed.
    """
    text = bounded(text)
    for part in (*(match.strip() for match in _FENCE.findall(text)), text):
        position = 0
        for _ in range(_MAX_OPENERS):
            opener = _OPENER.search(part, position)
            if opener is None:
                break
            position = opener.start() + 1
            if (found := _value_at(part, opener.start())) is not None:
                value, position = found
                yield value


def _value_at(text: str, start: int) -> tuple[Any, int] | None:
    """Return the value that begins at `start` and where it ends, or None."""
    try:
        return _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        pass
    end, missing = _extent(text, start)
    candidate = text[start:end] + missing
    for attempt in (candidate, candidate.translate(_QUOTES)):
        for read in (_DECODER.decode, ast.literal_eval):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of escape sequences unknown to Python
                    value = read(_TRAILING_COMMA.sub(r"\1", attempt))
            except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
                continue
            if isinstance(value, list | dict):
                return value, end
    return None


def _extent(text: str, start: int) -> tuple[int, str]:
    """Return where the bracket at `start` closes, and the closers missing at the text's end."""
    awaited: list[str] = []
    quote = ""
    position = start
    while position < len(text):
        char = text[position]
        around = text[position - 1 : position] + text[position + 1 : position + 2]
        is_apostrophe = len(around) == 2 and around.isalnum()  # as in don't
        if quote:
            if char == "\\":
                position += 1
            elif char == quote:
                quote = ""
        elif char == '"' or (char == "'" and not is_apostrophe):
            quote = char
        elif char in _CLOSERS:
            awaited.append(_CLOSERS[char])
        elif awaited and char == awaited[-1]:
            awaited.pop()
            if not awaited:
                return position + 1, ""
        position += 1
    return len(text), "" if quote else "".join(reversed(awaited))
