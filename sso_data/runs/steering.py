"""`RUN/steering.jsonl`: what models said about the prompts, one line each, and where it stands.

A line is a `choice` of features, or the whole `steering` of a prompt. In memory a line takes 19 to
38 bytes; a second line of a prompt's text for features that its first did not have takes more.
"""

import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import orjson

from sso_data.core.errors import RunError
from sso_data.core.records import JsonRow, row_id
from sso_data.runs.columns import row_key
from sso_data.runs.files import reading
from sso_data.runs.journal import open_lines, read_lines, to_line
from sso_data.runs.ledger import Ledger, next_id

FILE = "steering.jsonl"

_SYNC_SECONDS = 2.0
_SMALLEST = 1 << 10
_NOWHERE = 2**64 - 1
_FULL_PERCENT = 85


class SteeringBook:
    """The file opened by its one writer; a line that a crash tore is cut off first.

    `on_line` is given every line that is there.
    """

    def __init__(self, run: Path, *, on_line: Callable[[JsonRow], None]) -> None:
        self._path = run / FILE
        self._index = Places()
        self._synced = time.monotonic()
        with ExitStack() as opened:
            self._lines = opened.enter_context(closing(open_lines(self._path)))
            self._reader = opened.enter_context(self._path.open("rb"))
            for offset, line in read_steering(run):
                self._remember(line, offset)
                on_line(line)
            self._opened = opened.pop_all()

    def __len__(self) -> int:
        return len(self._index)

    def find(self, kind: str, row: str) -> JsonRow | None:
        """The line of this kind about a row."""
        return self._at(self._index.get(row_key(f"{kind}/{row}")))

    def written(self, content: str, feature: str) -> JsonRow | None:
        """The line of a prompt of this content for which the texts of a feature were asked.

        The first prompt of a content is looked at before the others.
        """
        first = self.find("steering", row_id(content, 0))
        if first is not None and _asked(first, feature):
            return first
        return self._at(self._index.get(row_key(f"text/{content}/{feature}")))

    def add(self, line: JsonRow) -> None:
        """Append a line."""
        self._remember(line, self._lines.append(to_line(line)))
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            self._lines.sync()
            self._synced = time.monotonic()

    def close(self) -> None:
        """Sync and close."""
        self._opened.close()

    def _remember(self, line: JsonRow, offset: int) -> None:
        content, _, occurrence = line["id"].rpartition("-")
        self._index.put(row_key(f"{line['kind']}/{line['id']}"), offset)
        if occurrence != "0":
            for feature in line.get("written", {}):
                if _asked(line, feature):
                    self._index.put(row_key(f"text/{content}/{feature}"), offset)

    def _at(self, offset: int | None) -> JsonRow | None:
        if offset is None:
            return None
        with reading(self._path):
            self._reader.seek(offset)
            line: JsonRow = orjson.loads(self._reader.readline())
        return line


class Places:
    """Offsets by 64-bit key: open addressing, at most 85 of 100 slots used, doubled when full."""

    def __init__(self) -> None:
        self._used = 0
        self._keys = array("Q", bytes(8 * _SMALLEST))
        self._offsets = array("Q", [_NOWHERE]) * _SMALLEST

    def __len__(self) -> int:
        return self._used

    def get(self, key: int) -> int | None:
        """The offset last put under `key`."""
        found = self._offsets[self._slot(key)]
        return None if found == _NOWHERE else found

    def put(self, key: int, offset: int) -> None:
        """Remember an offset."""
        slot = self._slot(key)
        if self._offsets[slot] == _NOWHERE:
            self._used += 1
            self._keys[slot] = key
        self._offsets[slot] = offset
        if 100 * self._used > _FULL_PERCENT * len(self._offsets):
            self._grow()

    def bytes_used(self) -> int:
        """Memory of the table, in bytes."""
        return 16 * len(self._offsets)

    def _slot(self, key: int) -> int:
        mask = len(self._offsets) - 1
        slot = key & mask
        while self._offsets[slot] != _NOWHERE and self._keys[slot] != key:
            slot = (slot + 1) & mask
        return slot

    def _grow(self) -> None:
        keys, offsets = self._keys, self._offsets
        self._keys = array("Q", bytes(16 * len(keys)))
        self._offsets = array("Q", [_NOWHERE]) * (2 * len(offsets))
        for key, offset in zip(keys, offsets, strict=True):
            if offset != _NOWHERE:
                slot = self._slot(key)
                self._keys[slot], self._offsets[slot] = key, offset


class Occurrences:
    """Ids for prompts in the order they come: which of the equal ones each is."""

    def __init__(self) -> None:
        self._seen = Ledger()

    def next(self, content: str) -> str:
        """The id of the next prompt with this content hash."""
        return next_id(self._seen, content)


def read_steering(run: Path) -> Iterator[tuple[int, JsonRow]]:
    """(offset, line) of a run's steering.jsonl; RunError names one that is none of ours."""
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
            raise RunError(f"{path}:{number}: not a line of ours; remove it, it is made again")
        yield offset, content


def _asked(line: JsonRow, feature: str) -> bool:
    """Whether the texts of a feature were asked for this very line, not taken from another."""
    return "attempts" in line.get("written", {}).get(feature, {})
