"""`RUN/steering.jsonl`: what models said about the prompts, one line each, found by prompt or text.

A line is a `choice` of features, or the whole `steering` of a prompt. In memory a line takes 20 to
40 bytes; a second line of a prompt's text for features that its first did not have takes more.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import orjson

from sso_data.core.errors import RunError
from sso_data.core.records import JsonRow, row_id
from sso_data.runs.columns import row_key
from sso_data.runs.files import reading
from sso_data.runs.journal import open_lines, read_lines, to_line
from sso_data.runs.jsonl_store import PeriodicSync
from sso_data.runs.ledger import KeyTable, Ledger, next_id

FILE = "steering.jsonl"


class SteeringBook:
    """The file, opened by its only writer; a line that a crash tore is cut off first.

    `on_line` is given every line that is there. Raises RunError for a line of another program.
    """

    def __init__(self, run: Path, *, on_line: Callable[[JsonRow], None]) -> None:
        self._path = run / FILE
        self._ends = KeyTable("Q")
        with ExitStack() as opened:
            self._lines = opened.enter_context(closing(open_lines(self._path)))
            self._reader = opened.enter_context(self._path.open("rb"))
            for offset, line in read_steering(run):
                self._remember(line, offset)
                on_line(line)
            self._opened = opened.pop_all()
        self._sync = PeriodicSync(self._lines)

    def find(self, kind: str, row: str) -> JsonRow | None:
        """Return the line of this kind about a row."""
        return self._at(f"{kind}/{row}")

    def written(self, content: str, feature: str) -> JsonRow | None:
        """Return the line of a prompt of this content for which a feature's texts were asked.

        The first prompt of a content is looked at before the others.
        """
        first = self.find("steering", row_id(content, 0))
        if first is not None and feature in asked_features(first):
            return first
        return self._at(f"text/{content}/{feature}")

    def add(self, line: JsonRow) -> None:
        """Append a line."""
        self._remember(line, self._lines.append(to_line(line)))
        self._sync()

    def close(self) -> None:
        """Sync and close."""
        self._opened.close()

    def _remember(self, line: JsonRow, offset: int) -> None:
        """Index a line under one more than its offset: the table has no zeros."""
        self._ends.put(row_key(f"{line['kind']}/{line['id']}"), offset + 1)
        content = content_of(line["id"])
        if line["id"] != row_id(content, 0):
            for feature in asked_features(line):
                self._ends.put(row_key(f"text/{content}/{feature}"), offset + 1)

    def _at(self, key: str) -> JsonRow | None:
        place = self._ends.get(row_key(key))
        if not place:
            return None
        with reading(self._path):
            self._reader.seek(place - 1)
            line: JsonRow = orjson.loads(self._reader.readline())
        return line


class MemoryBook:
    """A `SteeringBook` without a file."""

    def __init__(self) -> None:
        self._lines: dict[str, JsonRow] = {}

    def find(self, kind: str, row: str) -> JsonRow | None:
        """Return the line of this kind about a row."""
        return self._lines.get(f"{kind}/{row}")

    def written(self, content: str, feature: str) -> JsonRow | None:
        """Return the line of a prompt of this content for which a feature's texts were asked."""
        return self._lines.get(f"text/{content}/{feature}")

    def add(self, line: JsonRow) -> None:
        """Keep a line."""
        self._lines[f"{line['kind']}/{line['id']}"] = line
        for feature in asked_features(line):
            self._lines[f"text/{content_of(line['id'])}/{feature}"] = line


Book = SteeringBook | MemoryBook


class Occurrences:
    """Ids for prompts in the order they come: which of the equal ones each is."""

    def __init__(self) -> None:
        self._seen = Ledger()

    def next(self, content: str) -> str:
        """Return the id of the next prompt with this content hash."""
        return next_id(self._seen, content)


def read_steering(run: Path) -> Iterator[tuple[int, JsonRow]]:
    """Yield (offset, line) of a run's steering.jsonl.

    Raises RunError that names a line which is not of this file's form.
    """
    path = run / FILE
    if not path.exists():
        return
    for number, (offset, line) in enumerate(read_lines(path), start=1):
        try:
            content = orjson.loads(line)
            is_ours = isinstance(content["id"], str) and content["kind"] in ("choice", "steering")
        except (ValueError, KeyError, TypeError):
            is_ours = False
        if not is_ours:
            raise RunError(f"{path}:{number}: not a line of sso-data; remove it, it is made again")
        yield offset, content


def content_of(row: str) -> str:
    """Return the content part of a row's id."""
    return row.rpartition("-")[0]


def asked_features(line: JsonRow) -> list[str]:
    """Return the features whose texts were asked for this line, not taken from another one."""
    return [name for name, told in line.get("written", {}).items() if "attempts" in told]
