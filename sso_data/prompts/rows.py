"""One row of a prompt source: its fields become a candidate, or a bad row that says what is wrong.

The columns beside the prompt become metadata: canonical JSON text with sorted keys, compact, UTF-8,
finite numbers. Dates and times become ISO text, decimals and durations text, and bytes `<N bytes>`;
an integer must fit into 64 bits (signed or unsigned).
"""

import datetime
import decimal
import json
import math
import reprlib
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sso_data.core.errors import InputError, one_line
from sso_data.core.records import Message

EXCERPT_CHARS = 200
CORRECT_OR_SKIP = "correct the row, or leave such rows out with --skip-bad-rows"
_LEAST, _MOST = -(2**63), 2**64 - 1
_SHORT = reprlib.Repr()
_SHORT.maxstring, _SHORT.maxother, _SHORT.maxlist, _SHORT.maxdict = 120, 80, 4, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A well-formed prompt, before it has an id: blank or answered prompts are candidates too.

    `metadata` is the canonical JSON text of the row's other columns; `where` is for messages.
    """

    messages: tuple[Message, ...]
    source_id: str | None
    metadata: str
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRow:
    """A row that is not a prompt: its place, at most 200 characters of it, and what is wrong."""

    where: str
    raw: str
    detail: str

    @property
    def messages(self) -> tuple[Message, ...]:
        """A stand-in for the prompt, from which the row's identity is derived."""
        return (Message(role="malformed", content=self.raw),)


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRow:
    """The fields of one row as its format gave them, not checked yet."""

    where: str
    fields: Mapping[str, Any]


class RowError(Exception):
    """A problem of one row; becomes the detail of a BadRow."""


def unanswerable(messages: tuple[Message, ...]) -> tuple[str, str] | None:
    """Return the reason and detail for which a model cannot answer these messages, or None."""
    turns = [message for message in messages if message.role != "system"]
    if not turns or all(not turn.content.strip() for turn in turns if turn.role == "user"):
        return "blank_prompt", "no user turn has text"
    if turns[-1].role != "user":
        return "ends_with_assistant", "the last turn is not the user's; there is nothing to answer"
    if not turns[-1].content.strip():
        return "blank_prompt", "the last user turn is blank"
    return None


def encodable(text: str, name: str) -> str:
    """Return `text`; raises RowError where UTF-8 cannot encode it (a lone surrogate, \\ud800)."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        surrogate = ascii(error.object[error.start])
        raise RowError(f"{name} holds invalid Unicode (lone surrogate {surrogate})") from error
    return text


def metadata_json(columns: Mapping[str, Any]) -> str:
    """The canonical JSON text of `columns`; raises RowError for a column that JSON cannot hold."""
    simple = {_key(name, name): plain(value, name) for name, value in columns.items()}
    try:
        text = json.dumps(
            simple, ensure_ascii=False, sort_keys=True, allow_nan=False, separators=(",", ":")
        )
    except RecursionError as error:
        raise RowError("a metadata column is nested too deeply") from error
    return encodable(text, "a metadata column")


def plain(value: object, column: str) -> Any:
    """`value` in JSON's own types; raises RowError that names `column` where it has none."""
    try:
        return _plain(value, column)
    except RecursionError as error:
        raise RowError(f"{column!r} is nested too deeply") from error


def _plain(value: object, column: str) -> Any:
    match value:
        case None | bool() | str():
            return value
        case int():
            if not _LEAST <= value <= _MOST:
                raise RowError(f"{column!r} holds an integer of more than 64 bits; make it a text")
            return value
        case float():
            if not math.isfinite(value):
                raise RowError(f"{column!r} holds {value}, which JSON cannot represent; use null")
            return value
        case Mapping():
            return {_key(key, column): _plain(item, column) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item, column) for item in value]
        case datetime.datetime() | datetime.date() | datetime.time():
            return value.isoformat()
        case datetime.timedelta() | decimal.Decimal() | uuid.UUID():
            return str(value)
        case bytes() | bytearray() | memoryview():
            return f"<{len(value)} bytes>"
        case _:
            raise RowError(
                f"{column!r} holds a {type(value).__name__}, which JSON cannot represent"
            )


def _key(key: object, column: str) -> str:
    if not isinstance(key, str):
        raise RowError(f"{column!r} has a key that is not a text")
    return key


def check_columns(where: str, columns: list[str]) -> None:
    """Raise InputError for a table with a duplicate column."""
    twice = min((name for name, count in Counter(columns).items() if count > 1), default=None)
    if twice is not None:
        raise InputError(one_line(f"{where}: duplicate column {twice!r}; rename one"))


def listed(names: Iterable[object], most: int = 12) -> str:
    """Names for a message: at most `most` of them, none longer than an excerpt."""
    every = list(names)
    shown = ", ".join(excerpt(name) for name in every[:most])
    return (f"{shown}, ..." if len(every) > most else shown) or "none"


def kind_of(value: object) -> str:
    """The name of a value's type in a message."""
    names = {
        str: "text",
        dict: "an object",
        list: "a list",
        bool: "true or false",
        int: "a number",
        bytes: "bytes",
    }
    if value is None:
        return "null"
    if isinstance(value, float):
        return "a number" if math.isfinite(value) else "not a finite number"
    return names.get(type(value), f"a {type(value).__name__}")


def excerpt(value: object) -> str:
    """At most 200 characters of a value, on one line, in characters that UTF-8 can encode."""
    text = value[: EXCERPT_CHARS * 2] if isinstance(value, str) else _SHORT.repr(value)
    return one_line(text, EXCERPT_CHARS)
