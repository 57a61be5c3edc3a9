"""The journal: one line per finished prompt, append-only, in parts `rows/00000.jsonl`, ...

A line is written with one call and either stands whole or is cut when the journal is opened again.
"""

import io
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import jsonlines
import orjson

from sso_data.core.records import JsonRow, Row
from sso_data.runs.files import Appender, closing_on_error, make_dir, reading, replace_by
from sso_data.runs.scores import ScoresWriter, parts

PART_BYTES = 1 << 28
_TAIL_BYTES = 1 << 16
_SCAN_BYTES = 1 << 20
_HOLE = b"\0"
"""No line that was written holds this byte; a power failure may leave it where nothing arrived."""


def to_line(row: JsonRow) -> bytes:
    """One JSON line, newline included."""
    stream = io.BytesIO()
    with jsonlines.Writer(stream, compact=True, dumps=orjson.dumps) as writer:
        writer.write(row)
    return stream.getvalue()


def open_lines(path: Path) -> Appender:
    """A line file opened for appending, without what a crash or a power failure left.

    A torn last line is cut off. Lines with holes are taken out; those after them stay.
    """
    if _has_holes(path):
        replace_by(path, (line for _, line in read_lines(path) if _HOLE not in line))
    whole = whole_lines_size(path)
    appender = Appender(path)
    if whole < appender.size:
        with closing_on_error(appender):
            appender.cut(whole)
    return appender


def whole_lines_size(path: Path) -> int:
    """Bytes up to and including the last newline; 0 for a missing file."""
    if not path.exists():
        return 0
    with reading(path), path.open("rb") as stream:
        end = stream.seek(0, io.SEEK_END)
        while end > 0:
            start = max(0, end - _TAIL_BYTES)
            stream.seek(start)
            newline = stream.read(end - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
    return 0


def _has_holes(path: Path) -> bool:
    """Whether there is a zero byte before the last newline of a file, if there is a file."""
    if not path.exists():
        return False
    with reading(path), path.open("rb") as stream:
        left = whole_lines_size(path)
        while left and (block := stream.read(min(left, _SCAN_BYTES))):
            if _HOLE in block:
                return True
            left -= len(block)
    return False


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(offset in bytes, line with its newline) of every whole line of a line file."""
    offset = 0
    with reading(path), path.open("rb") as stream:
        for line in stream:
            if not line.endswith(b"\n"):
                return
            yield offset, line
            offset += len(line)


def read_rows(run: Path) -> Iterator[Row]:
    """Every row of a run's journal, in the order written."""
    for part in parts(run):
        for _, line in read_lines(part):
            yield Row.from_json(orjson.loads(line))


class Journal:
    """The journal opened for appending; beside each part grows its side file of scores."""

    def __init__(self, run: Path, *, part_bytes: int = PART_BYTES) -> None:
        self._directory = run / "rows"
        self._part_bytes = part_bytes
        make_dir(self._directory)
        existing = parts(run)
        self._open(existing[-1] if existing else self._directory / "00000.jsonl")

    def append(self, row: Row) -> bytes:
        """Write one row as one line; returns its `columns.SCORES` record."""
        if self._lines.size >= self._part_bytes:
            self._next_part()
        line = to_line(row.to_json())
        offset = self._lines.append(line)
        return self._scores.append(row, line, offset)

    def sync(self) -> None:
        """Make all rows so far survive a power failure."""
        self._lines.sync()

    def close(self) -> None:
        """Sync and close."""
        with closing(self._scores):
            self._lines.close()

    def _open(self, part: Path) -> None:
        self._part = part
        with ExitStack() as opened:
            self._lines = opened.enter_context(closing(open_lines(part)))
            self._scores = ScoresWriter(part)
            opened.pop_all()

    def _next_part(self) -> None:
        self.close()
        self._open(self._directory / f"{int(self._part.stem) + 1:05}.jsonl")
