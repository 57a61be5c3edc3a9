"""The other columns of a row as canonical JSON text: sorted keys, compact, UTF-8, finite numbers.

Dates and times become ISO text, decimals and durations text, and bytes `<N bytes>`: metadata names
what was there and stays small. An integer must fit into 64 bits (signed or unsigned).
"""

import datetime
import decimal
import json
import math
import uuid
from collections.abc import Mapping
from typing import Any

_LEAST, _MOST = -(2**63), 2**64 - 1


class MetadataError(Exception):
    """A column that has no place in JSON; the text names it."""


def metadata_json(columns: Mapping[str, Any]) -> str:
    """The canonical JSON text of `columns`; MetadataError names the column that has none."""
    simple = {_key(name, name): plain(value, name) for name, value in columns.items()}
    try:
        text = json.dumps(
            simple, ensure_ascii=False, sort_keys=True, allow_nan=False, separators=(",", ":")
        )
        text.encode()
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])
        detail = f"a column beside the prompt holds half a character (lone surrogate {half})"
        raise MetadataError(detail) from error
    except RecursionError as error:
        raise MetadataError("a column beside the prompt is nested too deeply") from error
    return text


def plain(value: object, column: str) -> Any:
    """`value` in JSON's own types; MetadataError names `column` when it has none."""
    try:
        return _plain(value, column)
    except RecursionError as error:
        raise MetadataError(f"{column!r} is nested too deeply") from error


def _plain(value: object, column: str) -> Any:
    match value:
        case None | bool() | str():
            return value
        case int():
            return _integer(value, column)
        case float():
            return _finite(value, column)
        case Mapping():
            return {_key(key, column): _plain(item, column) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item, column) for item in value]
        case _:
            return _as_text(value, column)


def _integer(value: int, column: str) -> int:
    if not _LEAST <= value <= _MOST:
        raise MetadataError(f"{column!r} holds an integer of more than 64 bits; make it a text")
    return value


def _finite(value: float, column: str) -> float:
    if not math.isfinite(value):
        raise MetadataError(f"{column!r} holds {value}, which JSON cannot; use null")
    return value


def _key(key: object, column: str) -> str:
    if not isinstance(key, str):
        raise MetadataError(f"{column!r} has a key that is no text")
    return key


def _as_text(value: object, column: str) -> str:
    match value:
        case datetime.datetime() | datetime.date() | datetime.time():
            return value.isoformat()
        case datetime.timedelta() | decimal.Decimal() | uuid.UUID():
            return str(value)
        case bytes() | bytearray() | memoryview():
            return f"<{len(value)} bytes>"
        case _:
            raise MetadataError(f"{column!r} holds a {type(value).__name__}, which JSON cannot")
