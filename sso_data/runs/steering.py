"""`RUN/steering.jsonl`: what models said about prompts, found by prompt or by content.

A line is a `choice` of features, or the whole `steering` of a prompt. In memory a line takes 20 to
40 bytes; more if it is a later line of the same content with features that the first lacks.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import orjson

from sso_data.core.errors import RunError
from sso_data.core.records import SCHEMA_VERSION, JsonRow, row_id
from sso_data.runs.columns import hash64
from sso_data.runs.files import reading
from sso_data.runs.jsonl import CRC, PeriodicSync, open_lines, read_lines, sealed, unsealed
from sso_data.runs.ledger import KeyTable
from sso_data.runs.workdir import refuse_later_format

FILE = "steering.jsonl"


class SteeringStore:
    """The file, opened by its one writer; a torn last line is cut off.

    `on_line` is called with every stored line. Raises RunError for a line of another program.
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
        self._sync = PeriodicSync(self._lines.sync)

    def find(self, kind: str, row: str) -> JsonRow | None:
        """Return the line of this kind about a row, or None."""
        return self._at(f"{kind}/{row}")

    def written(self, content: str, feature: str) -> JsonRow | None:
        """Return a line of a prompt with this content for which texts of `feature` were asked.

        The first prompt of a content takes precedence.
        """
        first = self.find("steering", row_id(content, 0))
        if first is not None and feature in asked_features(first):
            return first
        return self._at(f"text/{content}/{feature}")

    def add(self, line: JsonRow) -> None:
        """Append a line; raises RunError when it cannot be written."""
        self._remember(line, self._lines.append(sealed(line)))
        self._sync()

    def close(self) -> None:
        """Sync and close."""
        self._opened.close()

    def _remember(self, line: JsonRow, offset: int) -> None:
        """Index a line by its offset + 1, because values of the table are positive."""
        self._ends.put(hash64(f"{line['kind']}/{line['id']}"), offset + 1)
        content = content_of(line["id"])
        if line["id"] != row_id(content, 0):
            for feature in asked_features(line):
                self._ends.put(hash64(f"text/{content}/{feature}"), offset + 1)

    def _at(self, key: str) -> JsonRow | None:
        place = self._ends.get(hash64(key))
        if not place:
            return None
        with reading(self._path):
            self._reader.seek(place - 1)
            line: JsonRow = orjson.loads(self._reader.readline())
        line.pop(CRC, None)
        return line


class MemorySteeringStore:
    """A `SteeringStore` without a file."""

    def __init__(self) -> None:
        self._lines: dict[str, JsonRow] = {}

    def find(self, kind: str, row: str) -> JsonRow | None:
        """Return the line of this kind about a row, or None."""
        return self._lines.get(f"{kind}/{row}")

    def written(self, content: str, feature: str) -> JsonRow | None:
        """Return a line of a prompt with this content for which texts of `feature` were asked."""
        return self._lines.get(f"text/{content}/{feature}")

    def add(self, line: JsonRow) -> None:
        """Keep a line."""
        self._lines[f"{line['kind']}/{line['id']}"] = line
        for feature in asked_features(line):
            self._lines[f"text/{content_of(line['id'])}/{feature}"] = line


AnyStore = SteeringStore | MemorySteeringStore


def read_steering(run: Path) -> Iterator[tuple[int, JsonRow]]:
    """Yield (offset in bytes, line) of a run's steering.jsonl; nothing if there is no file.

    Raises RunError that names a line of another form, of a later format, or one that was changed.
    """
    path = run / FILE
    if not path.exists():
        return
    for number, (offset, line) in enumerate(read_lines(path), start=1):
        try:
            content = orjson.loads(line)
            is_valid = isinstance(content["id"], str) and content["kind"] in ("choice", "steering")
        except (ValueError, KeyError, TypeError):
            is_valid = False
        if not is_valid:
            raise RunError(
                f"{path}:{number}: not a valid line; remove it, and its prompt is steered again"
            )
        refuse_later_format(path, content, known=SCHEMA_VERSION)
        yield offset, unsealed(content, f"{path}:{number}")


def content_of(row: str) -> str:
    """Return the content part of a row's id."""
    return row.rpartition("-")[0]


def asked_features(line: JsonRow) -> list[str]:
    """Return the features whose texts a model was asked for, not copied from another line."""
    return [name for name, text in line.get("written", {}).items() if "attempts" in text]
