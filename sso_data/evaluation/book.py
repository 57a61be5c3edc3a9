"""A file of JSON lines that grows while the work goes on, each line known by its key."""

import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path

import orjson

from sso_data.core.errors import RunError
from sso_data.core.records import JsonRow
from sso_data.runs.files import make_dir
from sso_data.runs.journal import open_lines, read_lines, to_line

_SYNC_SECONDS = 2.0


class Book:
    """The file opened by its one writer; a line that a crash tore is cut off first.

    Every line is held in memory, too.
    """

    def __init__(self, path: Path, key: str) -> None:
        """RunError names a line that is no object with `key`."""
        make_dir(path.parent)
        self._key = key
        self._synced = time.monotonic()
        self._found: dict[str, JsonRow] = {}
        with ExitStack() as opened:
            self._lines = opened.enter_context(closing(open_lines(path)))
            for number, (_, line) in enumerate(read_lines(path), start=1):
                try:
                    content = orjson.loads(line)
                    self._found[str(content[key])] = content
                except (ValueError, KeyError, TypeError) as error:
                    raise RunError(f"{path}:{number}: not a line of ours; remove it") from error
            self._opened = opened.pop_all()

    @property
    def lines(self) -> Mapping[str, JsonRow]:
        """All lines by their keys."""
        return self._found

    def add(self, line: JsonRow) -> None:
        """Append one line."""
        self._lines.append(to_line(line))
        self._found[str(line[self._key])] = line
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            self._lines.sync()
            self._synced = time.monotonic()

    def close(self) -> None:
        """Make everything durable and close the file."""
        self._opened.close()
