"""JSON Lines files that survive crashes: append, repair on opening, read, find by key."""

import io
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import TypeVar

import orjson

from sso_data.core.errors import RunError
from sso_data.core.records import JsonRow
from sso_data.runs.files import Appender, closing_on_error, make_dir, named, reading, replace_by

T = TypeVar("T")

CRC = "crc"
"""Field of a sealed line: the CRC-32 of the line without it, in hexadecimal digits."""

SYNC_SECONDS = 2.0
"""A power failure loses at most this much work, in seconds."""

_BLOCK_BYTES = 1 << 16
HOLE = b"\0"
"""No written line holds this byte; after a power failure it may fill what was not stored."""


def to_line(row: JsonRow) -> bytes:
    """Return `row` as one JSON line, newline included."""
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


def sealed(row: JsonRow) -> bytes:
    """Return `row` as one JSON line that holds its own checksum."""
    return to_line(row | {CRC: f"{zlib.crc32(to_line(row)):08x}"})


def unsealed(row: JsonRow, where: str) -> JsonRow:
    """Return a line's object without its checksum; lines of versions before 0.2.0 have none.

    Raises RunError, which begins with `where`, for a line that was changed.
    """
    seal = row.pop(CRC, None)
    if seal is not None and seal != f"{zlib.crc32(to_line(row)):08x}":
        raise RunError(
            f"{where}: was changed after it was written (its checksum differs); restore the line "
            "from a copy, or delete it: what it says is asked for again"
        )
    return row


def open_lines(path: Path) -> Appender:
    """Open a line file for appending and remove what a crash or a power failure left in it.

    A torn last line is cut off. Lines with zero bytes are removed; the lines after them stay.
    Raises RunError when the file cannot be read or written.
    """
    whole = whole_lines_size(path)
    if whole and any(HOLE in line for _, line in read_lines(path)):
        replace_by(path, (line for _, line in read_lines(path) if HOLE not in line))
        whole = whole_lines_size(path)
    appender = Appender(path)
    if whole < appender.size:
        with closing_on_error(appender.close):
            appender.cut(whole)
    return appender


def whole_lines_size(path: Path) -> int:
    """Return the bytes up to and including the last newline; 0 for a missing file."""
    if not path.exists():
        return 0
    with reading(path), path.open("rb") as stream:
        end = stream.seek(0, io.SEEK_END)
        while end > 0:
            start = max(0, end - _BLOCK_BYTES)
            stream.seek(start)
            newline = stream.read(end - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
    return 0


def read_lines(path: Path, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield (offset in bytes, line with its newline) of every whole line from `offset` on.

    Raises RunError as `reading`.
    """
    with reading(path), path.open("rb") as stream:
        stream.seek(offset)
        for line in stream:
            if not line.endswith(b"\n"):
                return
            yield offset, line
            offset += len(line)


def read_objects(path: Path, remedy: str = "remove the line") -> Iterator[tuple[str, JsonRow]]:
    """Yield ("FILE:LINE", object) of every whole line of a file.

    Raises RunError that names a line which is not a JSON object, and the `remedy`.
    """
    for number, (_, line) in enumerate(read_lines(path), start=1):
        where = f"{path}:{number}"
        try:
            content = orjson.loads(line)
        except ValueError as error:
            raise RunError(f"{where}: not JSON; {remedy}") from error
        if not isinstance(content, dict):
            raise RunError(f"{where}: not a JSON object; {remedy}")
        yield where, content


def parsed(parse: Callable[[JsonRow], T], line: JsonRow, where: str) -> T:
    """Return what `parse` makes of a line's object.

    Raises RunError, which begins with `where`, where it has a field too many, too few or of
    another type.
    """
    try:
        return parse(line)
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{where}: not a valid line; remove the line") from error


class ScratchLines:
    """JSON objects in the temporary directory, written once and read again; gone when closed."""

    def __init__(self) -> None:
        self._file = TemporaryFile()  # noqa: SIM115 - closed by `close`

    def add(self, row: JsonRow) -> None:
        """Append an object. Raises RunError where there is no space for it."""
        with named(Path(gettempdir())):
            self._file.write(to_line(row))

    def __iter__(self) -> Iterator[JsonRow]:
        """Yield the objects from the first one on."""
        with named(Path(gettempdir())):
            self._file.seek(0)
        yield from map(orjson.loads, self._file)

    def close(self) -> None:
        """Remove the file."""
        self._file.close()


class PeriodicSync:
    """Makes appended lines durable every two seconds, if it is called after each append."""

    def __init__(self, *syncs: Callable[[], None]) -> None:
        self._syncs = syncs
        self._synced = time.monotonic()

    def __call__(self) -> None:
        """Sync when the last sync is long enough ago; raises RunError where that fails."""
        if time.monotonic() - self._synced > SYNC_SECONDS:
            for sync in self._syncs:
                sync()
            self._synced = time.monotonic()


class JsonlStore:
    """A file of objects, opened by its one writer and held in memory by a key of each object.

    A torn last line is cut off when it is opened. Close it, for example with `contextlib.closing`.
    """

    def __init__(
        self, path: Path, key: str, parse: Callable[[JsonRow], object] = lambda line: line
    ) -> None:
        """Open `path`; raises RunError that names a line without `key`, or refused by `parse`."""
        make_dir(path.parent)
        self._key = key
        self._found: dict[str, JsonRow] = {}
        with ExitStack() as opened:
            self._lines = opened.enter_context(closing(open_lines(path)))
            for where, content in read_objects(path):
                line = unsealed(content, where)
                if key not in line:
                    raise RunError(f"{where}: has no {key!r}; remove the line")
                parsed(parse, line, where)
                self._found[str(line[key])] = line
            self._opened = opened.pop_all()
        self._sync = PeriodicSync(self._lines.sync)

    @property
    def lines(self) -> Mapping[str, JsonRow]:
        """All objects by their keys."""
        return self._found

    def add(self, line: JsonRow) -> None:
        """Append one object; raises RunError when it cannot be written."""
        self._lines.append(sealed(line))
        self._found[str(line[self._key])] = line
        self._sync()

    def close(self) -> None:
        """Make everything durable and close the file."""
        self._opened.close()
