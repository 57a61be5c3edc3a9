"""Slices: which prompts (or labelled pairs) of a file a round takes, streamed into its own file.

A slice is a range of positions among the well-formed rows of the source. `digest` runs over all
rows up to its end, so that a source that changed before that point is noticed.
"""

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import orjson

from sso_data.config.iteration import IterateConfig
from sso_data.config.run import SourceConfig
from sso_data.core.errors import ConfigError, InputError
from sso_data.core.records import JsonRow, content_hash
from sso_data.prompts import BadRow, Candidate, read_prompts
from sso_data.prompts.preferences import read_preferences
from sso_data.prompts.rows import RowError, plain
from sso_data.runs.files import replace_by
from sso_data.runs.jsonl import to_line

ROUND = "round"
"""The column of a slice's file that names the round; a user's own one becomes `source_round`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """The rows `start` to `start + rows` of a source's well-formed ones, counted from 0.

    `malformed` rows before its end were left out. `digest`: 16 hexadecimal digits over the content
    of every row up to its end.
    """

    start: int
    rows: int
    malformed: int
    digest: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Slice":
        """Return the slice of a round's mark, which may hold more."""
        return cls(**{one.name: content[one.name] for one in fields(cls)})


def rows_a_round(config: IterateConfig, noted: int | None) -> int:
    """Number of rows in a slice: as configured, as `noted` at the start, or a share of the source.

    The source is read, and checked, as far as it is needed. InputError where it holds too few.
    """
    wanted = config.slices.prompts or noted
    fresh = config.slices.order == "fresh"
    if wanted is None:
        whole = sum(1 for row in source_rows(config) if not isinstance(row, BadRow))
        wanted = whole // config.rounds if fresh else whole
        if not wanted:
            raise _exhausted(config, whole, 1)
        return wanted
    needed = wanted * config.rounds if fresh else wanted
    good = (row for row in source_rows(config) if not isinstance(row, BadRow))
    found = sum(1 for _ in itertools.islice(good, needed))
    if found < needed:
        raise _exhausted(config, found, wanted)
    return wanted


def write_slice(
    config: IterateConfig, number: int, rows: int, file: Path, *, before: Slice | None
) -> Slice:
    """Write the rows of round `number` (from 1) to `file`.

    `before` is the slice of an earlier round. Raises InputError where the source holds too few
    rows, or those up to the end of `before` have changed since.
    """
    start = (number - 1) * rows if config.slices.order == "fresh" else 0
    end = start + rows
    content = hashlib.sha256()
    taken = malformed = 0

    def lines() -> Iterator[bytes]:
        nonlocal taken, malformed
        source = source_rows(config)
        while taken < end and (row := next(source, None)) is not None:
            if isinstance(row, BadRow):
                malformed += 1
                continue
            line = to_line(_with_round(row, number, config))
            content.update(_identity(row, line))
            taken += 1
            is_end = before is not None and taken == before.start + before.rows
            if before and is_end and content.hexdigest()[:16] != before.digest:
                raise InputError(
                    f"{_name(config)}: its first {taken} rows changed since earlier rounds; "
                    "restore them (rows may be appended), or use another --out"
                )
            if taken > start:
                yield line

    replace_by(file, lines())
    if taken < end:
        raise _exhausted(config, taken, rows)
    return Slice(start=start, rows=rows, malformed=malformed, digest=content.hexdigest()[:16])


def slice_source(config: IterateConfig) -> SourceConfig:
    """Return how to read a round's own file of prompts: its columns keep the user's names."""
    source = config.generate.source
    return SourceConfig(column=source.column, id_column=source.id_column)


def source_rows(config: IterateConfig) -> Iterator[Candidate | BadRow | JsonRow]:
    """Return the source's rows: prompts and malformed rows, or labelled pairs.

    Raises ConfigError for a reserved column, InputError where the source cannot be read.
    """
    if config.labelled:
        return read_preferences(config.labelled.data, split=config.labelled.split)
    if ROUND in (config.generate.source.column, config.generate.source.id_column):
        raise ConfigError(f"generate.source: column name {ROUND!r} is reserved; rename the column")
    return read_prompts(config.prompts, config.generate.source)


def _identity(row: Candidate | JsonRow, line: bytes) -> bytes:
    """Return what the digest covers: a prompt's messages, or all of a labelled pair."""
    if isinstance(row, Candidate):
        return content_hash(row.messages).encode()
    return orjson.dumps(orjson.loads(line) | {ROUND: 0}, option=orjson.OPT_SORT_KEYS)


def _with_round(row: Candidate | JsonRow, number: int, config: IterateConfig) -> JsonRow:
    """The line of a slice's file: the row as it was, and the round."""
    if isinstance(row, Candidate):
        source = config.generate.source
        columns: JsonRow = orjson.loads(row.metadata)
        columns[source.column] = [message.to_json() for message in row.messages]
        if row.source_id is not None:
            columns[source.id_column] = row.source_id
    else:
        try:
            columns = {name: plain(value, name) for name, value in row.items()}
        except RowError as error:
            raise InputError(f"{_name(config)}: {error}") from error
    if ROUND in columns:
        columns[f"source_{ROUND}"] = columns[ROUND]
    return columns | {ROUND: number}


def _name(config: IterateConfig) -> str:
    return config.labelled.data if config.labelled else config.prompts


def _exhausted(config: IterateConfig, found: int, rows: int) -> InputError:
    """The failure of a source with too few rows, on one line."""
    what = "pairs" if config.labelled else "prompts"
    if config.slices.order == "same":
        return InputError(
            f"{_name(config)}: has {found} {what}, but a round needs {rows}; lower "
            "slices.prompts, or add more"
        )
    return InputError(
        f"{_name(config)}: has {found} {what}, but {config.rounds} rounds of {rows} need "
        f"{config.rounds * rows}; lower --rounds or slices.prompts, add more, or set "
        "slices.order=same"
    )
