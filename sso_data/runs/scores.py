"""The side file of each journal part: the numbers filtering needs, 120 bytes a row.

`rows/00000.scores` stands beside `rows/00000.jsonl`: a header, then one `columns.SCORES` record per
journal line. The journal is the truth. Of a side file only the longest prefix that agrees with the
journal is used; the rest is made again from the journal's lines.
"""

import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray

from sso_data.core.errors import RunError
from sso_data.core.records import SCHEMA_VERSION, Row
from sso_data.runs.columns import CHECKED_BYTES, SCORES, Rows, encode, leak_fingerprint
from sso_data.runs.files import Appender, closing_on_error, reading

_HEADER = struct.Struct("<8sII16s")
_MAGIC = b"SSOSCORE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The records of all rows of a run, in journal order, and the part each row is in.

    `rows` are `columns.SCORES`; `part` holds positions in `parts`, the journal's files.
    """

    rows: Rows
    part: NDArray[np.uint32]
    parts: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def keys(self) -> NDArray[np.uint64]:
        """The `columns.row_key` of every row."""
        keys: NDArray[np.uint64] = self.rows["key"]
        return keys

    def lines(self, positions: NDArray[np.intp]) -> Iterator[bytes]:
        """The journal lines at ascending `positions`, one at a time, checked against their CRC."""
        for number in np.unique(self.part[positions]):
            wanted = self.rows[positions[self.part[positions] == number]]
            yield from _read_lines(self.parts[number], wanted)


class ScoresWriter:
    """The side file of the journal part that is being written; opening it brings it up to date."""

    def __init__(self, part: Path) -> None:
        trusted = _trusted(part)
        self._side = _continue_side(part, len(trusted), _missing(part, trusted))

    def append(self, row: Row, line: bytes, offset: int) -> bytes:
        """Add and return the record of `row`, whose `line` (newline included) is at `offset`."""
        record = encode(row, line, offset)
        self._side.append(record)
        return record

    def close(self) -> None:
        """Sync and close."""
        self._side.close()


def load_scores(run: Path, *, dry: bool) -> Scores:
    """The records of every whole line of a run's journal.

    What a side file lacks is read from the journal, and written to the side file where that is
    possible and `dry` is false. Raises RunError naming file and line of a line that is no row.
    """
    files = parts(run)
    loaded = [_load_part(part, dry=dry) for part in files]
    counts = [len(rows) for rows in loaded]
    return Scores(
        rows=np.concatenate([np.empty(0, SCORES), *loaded]),
        part=np.repeat(np.arange(len(files), dtype=np.uint32), counts),
        parts=files,
    )


def parts(run: Path) -> tuple[Path, ...]:
    """The journal's parts, in the order they were written."""
    return tuple(sorted((run / "rows").glob("*.jsonl")))


def side_file(part: Path) -> Path:
    """Where the side file of a journal part stands."""
    return part.with_suffix(".scores")


def _load_part(part: Path, *, dry: bool) -> Rows:
    trusted = _trusted(part)
    missing = _missing(part, trusted)
    if missing and not dry:
        with suppress(RunError):  # a read-only run is filtered all the same
            _continue_side(part, len(trusted), missing).close()
    return np.concatenate([trusted, np.frombuffer(missing, SCORES)]) if missing else trusted


def _continue_side(part: Path, trusted: int, missing: bytes) -> Appender:
    """The side file, opened for appending, with `missing` after its first `trusted` records."""
    side = Appender(side_file(part))
    with closing_on_error(side):
        if trusted:
            side.cut(_HEADER.size + trusted * SCORES.itemsize)
        else:
            side.cut(0)
            side.append(_header())
        if missing:
            side.append(missing)
    return side


def _header() -> bytes:
    return _HEADER.pack(_MAGIC, SCHEMA_VERSION, SCORES.itemsize, leak_fingerprint().encode())


def _trusted(part: Path) -> Rows:
    """The longest prefix of the side file that agrees with the journal part."""
    nothing: Rows = np.empty(0, SCORES)
    side = side_file(part)
    try:
        with side.open("rb") as stream:
            if stream.read(_HEADER.size) != _header():
                return nothing
        rows: Rows = np.fromfile(side, SCORES, offset=_HEADER.size)
        size = part.stat().st_size
    except OSError:
        return nothing
    rows = rows[: _agreeing(rows, size)]
    with suppress(RunError):
        list(_read_lines(part, rows[[0, -1]] if len(rows) else rows))
        return rows
    return nothing


def _agreeing(rows: Rows, journal_size: int) -> int:
    """How many records from the start are intact, adjoin each other and lie in the journal."""
    ends = np.cumsum(rows["length"], dtype=np.uint64)
    starts = ends - rows["length"]
    good = (rows["offset"] == starts) & (rows["length"] > 0) & (ends <= journal_size)
    data = memoryview(rows.view(np.uint8).data)
    checks = np.fromiter(
        (
            zlib.crc32(data[start : start + CHECKED_BYTES])
            for start in range(0, len(data), SCORES.itemsize)
        ),
        np.uint32,
        count=len(rows),
    )
    good &= checks == rows["check"]
    return len(rows) if good.all() else int(np.argmin(good))


def _missing(part: Path, trusted: Rows) -> bytes:
    """The records of the journal's whole lines after the `trusted` ones; a torn last line is none.

    Raises RunError when a line is no row.
    """
    offset = int(trusted["offset"][-1] + trusted["length"][-1]) if len(trusted) else 0
    records = bytearray()
    with reading(part), suppress(FileNotFoundError), part.open("rb") as stream:
        stream.seek(offset)
        for number, line in enumerate(stream, start=len(trusted) + 1):
            if not line.endswith(b"\n"):
                break
            records += _record(part, number, line, offset)
            offset += len(line)
    return bytes(records)


def _record(part: Path, number: int, line: bytes, offset: int) -> bytes:
    """The record of line `number` (from 1) of a journal part."""
    try:
        return encode(Row.from_json(orjson.loads(line)), line, offset)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise RunError(
            f"{part}: line {number} is not a row ({type(error).__name__}: {error}); put the line "
            "back from a copy, or delete it and run `generate` again to redo its prompt"
        ) from error


def _read_lines(part: Path, rows: Rows) -> Iterator[bytes]:
    """The journal lines of ascending `rows`; RunError when the journal holds something else."""
    with reading(part), part.open("rb") as stream:
        for record in rows:
            offset, length = int(record["offset"]), int(record["length"])
            stream.seek(offset)
            line = stream.read(length)
            if zlib.crc32(line) != record["crc"] or line[-1:] != b"\n":
                raise RunError(
                    f"{part}: the line at byte {offset} is not the one that its side file "
                    f"describes; delete {side_file(part)} and run the same command again"
                )
            yield line
