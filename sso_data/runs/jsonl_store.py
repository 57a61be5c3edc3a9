"""A file of JSON lines that grows while work goes on, each line known by its key."""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path

import orjson

from sso_data.core.errors import RunError
from sso_data.core.records import JsonRow
from sso_data.runs.files import Appender, make_dir
from sso_data.runs.journal import Journal, open_lines, read_lines, to_line

SYNC_SECONDS = 2.0
"""At most so much work, in seconds, is lost to a power failure."""


class PeriodicSync:
    """Makes appended lines durable every two seconds, when it is called after an append."""

    def __init__(self, *files: Appender | Journal) -> None:
        self._files = files
        self._synced = time.monotonic()

    def __call__(self) -> None:
        """Sync the files if the last time is long enough ago; RunError where that fails."""
        if time.monotonic() - self._synced > SYNC_SECONDS:
            for file in self._files:
                file.sync()
            self._synced = time.monotonic()


class JsonlStore:
    """The file opened by its one writer, every line held in memory; a torn last line is cut off.

    Use it as a context manager, or close it.
    """

    def __init__(self, path: Path, key: str) -> None:
        """Open `path`, whose lines are objects with `key`; RunError names a line that is not."""
        make_dir(path.parent)
        self._key = key
        self._found: dict[str, JsonRow] = {}
        with ExitStack() as opened:
            self._lines = opened.enter_context(closing(open_lines(path)))
            for where, content in read_objects(path):
                try:
                    self._found[str(content[key])] = content
                except KeyError as error:
                    raise RunError(f"{where}: has no {key!r}; remove the line") from error
            self._opened = opened.pop_all()
        self._sync = PeriodicSync(self._lines)

    @property
    def lines(self) -> Mapping[str, JsonRow]:
        """All lines by their keys."""
        return self._found

    def add(self, line: JsonRow) -> None:
        """Append one line; RunError where it cannot be written."""
        self._lines.append(to_line(line))
        self._found[str(line[self._key])] = line
        self._sync()

    def close(self) -> None:
        """Make everything durable and close the file."""
        self._opened.close()


def read_objects(path: Path) -> Iterator[tuple[str, JsonRow]]:
    """(where, object) of every whole line of a file; RunError names a line that is no object."""
    for number, (_, line) in enumerate(read_lines(path), start=1):
        where = f"{path}:{number}"
        try:
            content = orjson.loads(line)
        except ValueError as error:
            raise RunError(f"{where}: not JSON; remove the line") from error
        if not isinstance(content, dict):
            raise RunError(f"{where}: not a JSON object; remove the line")
        yield where, content
