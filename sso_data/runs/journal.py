"""The journal of rows, and the side file of numbers that filtering needs, 120 bytes a row.

`rows/00000.jsonl`, `rows/00001.jsonl`, ... hold one line per finished prompt and only grow.
`rows/00000.scores` belongs to `rows/00000.jsonl`: a header, then one `columns.SCORES` record per
line. The journal is the truth: of a side file the longest prefix that agrees with the journal is
used, the rest is rebuilt from the journal's lines.
"""

import struct
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray

from sso_data.core.errors import RunError
from sso_data.core.records import SCHEMA_VERSION, Row
from sso_data.runs.columns import (
    CHECKED_BYTES,
    SCORES,
    Flag,
    Rows,
    always_complete,
    encode,
    flags_fingerprint,
    lacking,
)
from sso_data.runs.files import (
    Appender,
    closing_on_error,
    make_dir,
    reading,
    remove_tree,
    replace_by,
)
from sso_data.runs.jsonl import open_lines, read_lines, to_line
from sso_data.runs.workdir import read_json

PART_BYTES = 1 << 28
"""A part of the journal that has grown to this size is followed by the next part."""

FIRST_ROWS = "always_complete"
"""Key of run.json: hexadecimal keys of the first rows, which are complete by design."""

_HEADER = struct.Struct("<8sII16s")
_MAGIC = b"SSOSCORE"


def parts(run: Path) -> tuple[Path, ...]:
    """Return the journal's files, in the order they were written."""
    return tuple(sorted((run / "rows").glob("*.jsonl")))


def side_file(part: Path) -> Path:
    """Return the path of the side file of a journal part."""
    return part.with_suffix(".scores")


def read_rows(run: Path) -> Iterator[Row]:
    """Yield every row of a run's journal, in the order written.

    Raises RunError that names a line which is not a row.
    """
    for part in parts(run):
        for number, (_, line) in enumerate(read_lines(part), start=1):
            with _naming(part, number):
                row = Row.from_json(orjson.loads(line))
            yield row


@contextmanager
def _naming(part: Path, number: int) -> Iterator[None]:
    """Turn the errors of a line that is not a row into a RunError that names the line."""
    try:
        yield
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise RunError(
            f"{part}: line {number} is not a row ({type(error).__name__}: {error}); restore the "
            "line from a copy, or delete it and run `generate` again to redo its prompt"
        ) from error


class Journal:
    """The journal opened for appending; its last part's side file is brought up to date."""

    def __init__(self, run: Path, *, part_bytes: int = PART_BYTES) -> None:
        self._directory = run / "rows"
        self._part_bytes = part_bytes
        make_dir(self._directory)
        existing = parts(run)
        self._open(existing[-1] if existing else self._directory / "00000.jsonl")

    def append(self, row: Row) -> bytes:
        """Write one row as one line; return its `columns.SCORES` record.

        Raises RunError when it cannot be written.
        """
        if self._lines.size >= self._part_bytes:
            self.close()
            self._open(self._directory / f"{int(self._part.stem) + 1:05}.jsonl")
        line = to_line(row.to_json())
        record = encode(row, line, self._lines.append(line))
        self._side.append(record)
        return record

    def sync(self) -> None:
        """Make all rows so far durable."""
        self._lines.sync()

    def close(self) -> None:
        """Sync and close."""
        with closing(self._side):
            self._lines.close()

    def _open(self, part: Path) -> None:
        self._part = part
        with ExitStack() as opened:
            self._lines = opened.enter_context(closing(open_lines(part)))
            trusted = _trusted(part)
            self._side = _continue_side(part, len(trusted), _missing(part, trusted))
            opened.pop_all()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The records of all rows of a run, in journal order.

    `rows`: array [row] of `columns.SCORES`; `part`: array [row] of positions in `parts`, the
    journal's files.
    """

    rows: Rows
    part: NDArray[np.uint32]
    parts: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def keys(self) -> NDArray[np.uint64]:
        """Return the `columns.row_key` of every row."""
        keys: NDArray[np.uint64] = self.rows["key"]
        return keys

    def lines(self, positions: NDArray[np.intp]) -> Iterator[bytes]:
        """Yield the journal lines at ascending `positions`.

        Raises RunError when a line is not the one that its record describes (by CRC).
        """
        for number in np.unique(self.part[positions]):
            wanted = self.rows[positions[self.part[positions] == number]]
            yield from _read_described(self.parts[number], wanted)


def load_scores(run: Path, *, dry: bool) -> Scores:
    """Return the records of every whole line of a run's journal.

    Records missing in a side file are computed from the journal, and unless `dry` written to the
    side file where that is possible. Raises RunError that names a line which is not a row.
    """
    files = parts(run)
    loaded = []
    for part in files:
        trusted = _trusted(part)
        missing = _missing(part, trusted)
        if missing and not dry:
            with suppress(RunError):  # a read-only run can be filtered as well
                _continue_side(part, len(trusted), missing).close()
        loaded.append(np.concatenate([trusted, np.frombuffer(missing, SCORES)]))
    rows: Rows = np.concatenate([np.empty(0, SCORES), *loaded])
    if lacking(rows).any():
        rows["flags"][always_complete(rows, _first_rows(run))] |= np.uint16(Flag.ALWAYS_COMPLETE)
    return Scores(
        rows=rows,
        part=np.repeat(np.arange(len(files), dtype=np.uint32), [len(rows) for rows in loaded]),
        parts=files,
    )


def first_rows(facts: object) -> list[int]:
    """Return the keys in the FIRST_ROWS of run.json."""
    return [int(key, 16) for key in facts] if isinstance(facts, list) else []


def _first_rows(run: Path) -> NDArray[np.uint64]:
    manifest = read_json(run / "run.json", what="the run.json of a run") or {}
    return np.array(first_rows(manifest.get(FIRST_ROWS)), np.uint64)


def replace_rows(run: Path, new: Scores) -> None:
    """Put the rows of `new` in the place of those with the same ids in a run's journal.

    The caller holds the lock of the rows. Each part is replaced whole; after a death the same call
    does the rest. Raises RunError.
    """
    keys, order = new.keys(), np.argsort(new.keys())

    def lines(part: Path, rows: Rows) -> Iterator[bytes]:
        place = np.searchsorted(keys, rows["key"], sorter=order)
        is_new = np.isin(rows["key"], keys)
        for at, replaced, line in zip(place, is_new, _read_described(part, rows), strict=True):
            yield next(new.lines(order[at : at + 1])) if replaced else line

    scores = load_scores(run, dry=False)
    for number, part in enumerate(scores.parts):
        rows = scores.rows[scores.part == number]
        if np.isin(rows["key"], keys).any():
            remove_tree(side_file(part))
            replace_by(part, lines(part, rows))


def _continue_side(part: Path, trusted: int, missing: bytes) -> Appender:
    """Open the side file for appending, with `missing` after its first `trusted` records."""
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
    return _HEADER.pack(_MAGIC, SCHEMA_VERSION, SCORES.itemsize, flags_fingerprint().encode())


def _trusted(part: Path) -> Rows:
    """Return the longest prefix of the side file that agrees with the journal part.

    Its records are intact, follow each other without gaps and end within the journal part; the
    first and the last are compared with the journal's lines.
    """
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
    ends = np.cumsum(rows["length"], dtype=np.uint64)
    data = memoryview(rows.view(np.uint8).data)
    starts = range(0, len(data), SCORES.itemsize)
    checks = (zlib.crc32(data[start : start + CHECKED_BYTES]) for start in starts)
    good = (rows["offset"] == ends - rows["length"]) & (rows["length"] > 0) & (ends <= size)
    good &= np.fromiter(checks, np.uint32, count=len(rows)) == rows["check"]
    rows = rows if good.all() else rows[: int(np.argmin(good))]
    with suppress(RunError):
        list(_read_described(part, rows[[0, -1]] if len(rows) else rows))
        return rows
    return nothing


def _missing(part: Path, trusted: Rows) -> bytes:
    """Return the records of the journal's whole lines after the `trusted` ones.

    Raises RunError that names a line which is not a row.
    """
    offset = int(trusted["offset"][-1] + trusted["length"][-1]) if len(trusted) else 0
    records = bytearray()
    with reading(part), suppress(FileNotFoundError), part.open("rb") as stream:
        stream.seek(offset)
        for number, line in enumerate(stream, start=len(trusted) + 1):
            if not line.endswith(b"\n"):
                break
            with _naming(part, number):
                records += encode(Row.from_json(orjson.loads(line)), line, offset)
            offset += len(line)
    return bytes(records)


def _read_described(part: Path, rows: Rows) -> Iterator[bytes]:
    """Yield the journal lines of ascending `rows`; raises RunError when one does not match."""
    with reading(part), part.open("rb") as stream:
        for record in rows:
            offset, length = int(record["offset"]), int(record["length"])
            stream.seek(offset)
            line = stream.read(length)
            if zlib.crc32(line) != record["crc"] or line[-1:] != b"\n":
                raise RunError(
                    f"{part}: the line at byte {offset} does not match its side file; delete "
                    f"{side_file(part)} and run the same command again"
                )
            yield line
