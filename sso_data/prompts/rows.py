"""One row of a prompt source: its fields become a candidate, or it is said what is wrong."""

import math
import reprlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sso_data.config.run import SourceConfig
from sso_data.core.errors import InputError, one_line
from sso_data.core.records import Message
from sso_data.prompts.metadata import MetadataError, metadata_json, plain

ROLES = ("system", "user", "assistant")
EXCERPT_CHARS = 200
_SHORT = reprlib.Repr()
_SHORT.maxstring, _SHORT.maxother, _SHORT.maxlist, _SHORT.maxdict = 120, 80, 4, 8
_KEYS_THAT_SAY_MORE = frozenset(
    {
        "audio",
        "function_call",
        "image",
        "images",
        "name",
        "reasoning_content",
        "thinking",
        "tool_call_id",
        "tool_calls",
        "tools",
    }
)
"""Keys of a chat turn that a template may show the model; a turn would lose them silently."""


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
    """A row that is no prompt: where it stands, at most 200 characters of it, and what is wrong."""

    where: str
    raw: str
    detail: str

    @property
    def messages(self) -> tuple[Message, ...]:
        """What stands in for the prompt that it is not; its identity comes from it."""
        return (Message(role="malformed", content=self.raw),)


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRow:
    """The fields of one row as its format gave them, not looked at yet."""

    where: str
    fields: Mapping[str, Any]


class RowError(Exception):
    """What is wrong with one row; becomes a BadRow's detail."""


def judged(raw: RawRow, config: SourceConfig) -> Candidate | BadRow:
    """The candidate that `raw` holds, or the bad row that it is."""
    try:
        return _candidate(raw, config)
    except (RowError, MetadataError) as error:
        return BadRow(where=raw.where, raw=excerpt(dict(raw.fields)), detail=one_line(str(error)))


def _candidate(raw: RawRow, config: SourceConfig) -> Candidate:
    fields = raw.fields
    if config.column not in fields:
        raise RowError(missing_column(config.column, fields))
    messages = _messages(fields[config.column], config.column)
    others = {
        name: value
        for name, value in fields.items()
        if name not in (config.column, config.id_column)
    }
    has_id = config.id_column in fields and config.id_column != config.column
    return Candidate(
        messages=messages,
        source_id=_source_id(fields[config.id_column], config.id_column) if has_id else None,
        metadata=metadata_json(others),
        where=raw.where,
    )


def _messages(prompt: object, column: str) -> tuple[Message, ...]:
    if isinstance(prompt, str):
        return (Message(role="user", content=_encodable(prompt, f"{column!r}")),)
    if not isinstance(prompt, list):
        raise RowError(f"{column!r} is {kind_of(prompt)}, not a text or a list of chat messages")
    return tuple(_message(turn, place) for place, turn in enumerate(prompt, start=1))


def _message(turn: object, place: int) -> Message:
    name = f"message {place}"
    if not isinstance(turn, dict):
        raise RowError(f"{name} is {kind_of(turn)}, not an object with role and content")
    for key in ("role", "content"):
        if key not in turn:
            raise RowError(f"{name} has no {key!r} (its keys: {listed(turn)})")
    role, content = turn["role"], turn["content"]
    if role not in ROLES:
        raise RowError(f"{name} has the role {excerpt(role)}; roles are {', '.join(ROLES)}")
    if role == "system" and place > 1:
        raise RowError(f"{name} is a system message; only the first message may be one")
    if not isinstance(content, str):
        raise RowError(f"{name} has content that is {kind_of(content)}; only text is supported")
    lost = sorted(key for key in _KEYS_THAT_SAY_MORE & turn.keys() if turn[key])
    if lost:
        raise RowError(f"{name} has {lost[0]!r}, which would be lost; keep role and content only")
    return Message(role=role, content=_encodable(content, name))


def _source_id(value: object, column: str) -> str | None:
    """The user's own id as text; null and the empty text are no id."""
    simple = plain(value, column)
    if simple is None or simple == "":
        return None
    if isinstance(simple, bool | list | dict):
        raise RowError(f"{column!r} is {kind_of(simple)}; an id is a text or a number")
    return _encodable(str(simple), f"{column!r}")


def _encodable(text: str, name: str) -> str:
    """`text`, if UTF-8 can hold it: a JSON escape such as \\ud800 makes half a character."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ascii(text[error.start])
        raise RowError(f"{name} holds half a character (lone surrogate {half})") from error
    return text


def check_header(where: str, names: Iterable[str], config: SourceConfig) -> None:
    """Refuse a table that names a column twice, or lacks the prompt column (where it has one)."""
    columns = list(names)
    twice = min((name for name, count in Counter(columns).items() if count > 1), default=None)
    if twice is not None:
        raise InputError(one_line(f"{where}: the column {twice!r} is there twice; rename one"))
    if config.column and config.column not in columns:
        detail = missing_column(config.column, columns)
        raise InputError(one_line(f"{where}: {detail}; name the prompts' column with --column"))


def missing_column(column: str, names: Iterable[str]) -> str:
    """The words for a column that is not there; they name those that are."""
    return f"no column {column!r} (columns: {listed(names)})"


def listed(names: Iterable[object], most: int = 12) -> str:
    """Names for a message: at most `most` of them, none longer than an excerpt."""
    every = list(names)
    shown = ", ".join(excerpt(name) for name in every[:most])
    return (f"{shown}, ..." if len(every) > most else shown) or "none"


def kind_of(value: object) -> str:
    """What a value is called in a message."""
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
    """At most 200 characters of a value, on one line, in characters that UTF-8 can hold."""
    if not isinstance(value, str):
        return _trimmed(_SHORT.repr(value))
    return _trimmed(value[: EXCERPT_CHARS * 2])


def _trimmed(text: str) -> str:
    return one_line(text, EXCERPT_CHARS)
