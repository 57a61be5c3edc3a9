"""The journal of rows, and the side file of numbers that filtering needs, 120 bytes a row.

`rows/00000.jsonl`, `rows/00001.jsonl`, ... hold one line per finished prompt and only grow.
`rows/00000.scores` belongs to `rows/00000.jsonl`: a header, then one `columns.SCORES` record per
line. A record binds its line to what was written: a line whose checksum differs is refused, with
its file and number. A line that was removed is a prompt to be done again; lines at the end that
have no record yet get one, and so does a line whose record is damaged.
"""

import struct
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
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
    bound,
    encode,
    flags_fingerprint,
    lacking,
    record_of,
)
from sso_data.runs.files import (
    Appender,
    closing_on_error,
    make_dir,
    reading,
    remove_tree,
    replace_by,
    write_atomic,
)
from sso_data.runs.jsonl import HOLE, open_lines, read_lines, to_line
from sso_data.runs.workdir import read_json

PART_BYTES = 1 << 28
"""A part of the journal that has grown to this size is followed by the next part."""

FIRST_ROWS = "always_complete"
"""Key of run.json: hexadecimal keys of the first rows, which are complete by design."""

_HEADER = struct.Struct("<8sII16s")
_MAGIC = b"SSOSCORE"
NOT_A_ROW = (ValueError, KeyError, IndexError, TypeError, AttributeError)
"""What a line raises that is not a row."""
_READ_BYTES = 1 << 20
_REMEDY = (
    "restore the line from a copy, or delete the line and run the command that made the run "
    "again (or `retry`, if its prompt had failed before), which makes its row anew"
)


def parts(run: Path) -> tuple[Path, ...]:
    """Return the journal's files, in the order they were written."""
    return tuple(sorted((run / "rows").glob("*.jsonl")))


def side_file(part: Path) -> Path:
    """Return the path of the side file of a journal part."""
    return part.with_suffix(".scores")


def read_rows(run: Path) -> Iterator[Row]:
    """Yield every row of a run's journal, in the order written.

    Raises RunError that names a line which is not a row, or not the one that was written.
    """
    scores = load_scores(run, dry=True)
    yield from scores.read(np.arange(len(scores)))


def _row(part: Path, number: int, line: bytes) -> Row:
    """Return the row of a line. Raises RunError that names a line which is not a row."""
    try:
        return Row.from_json(orjson.loads(line))
    except NOT_A_ROW as error:
        if HOLE in line:
            raise _refusal(part, number - 1, line) from error
        raise not_a_line(part, number, error) from error


def not_a_line(part: Path, number: int, error: Exception) -> RunError:
    """Return the error of a line that is not a row."""
    return RunError(f"{part}:{number}: is not a row ({type(error).__name__}: {error}); {_REMEDY}")


class Journal:
    """The journal opened for appending; its last part's side file is brought up to date."""

    def __init__(self, run: Path, *, part_bytes: int = PART_BYTES) -> None:
        self._directory = run / "rows"
        self._part_bytes = part_bytes
        make_dir(self._directory)
        existing = parts(run)
        self._open(existing[-1] if existing else self._directory / "00000.jsonl")

    def append(self, row: Row, record: Rows | None = None) -> bytes:
        """Write one row as one line; return its `columns.SCORES` record.

        `record`: its `record_of`, where that is known. Raises RunError when it cannot be written.
        """
        if self._lines.size >= self._part_bytes:
            self.close()
            self._open(self._directory / f"{int(self._part.stem) + 1:05}.jsonl")
        line = to_line(row.to_json())
        offset = self._lines.append(line)
        stored = bound(record_of(row) if record is None else record, line, offset)
        self._side.append(stored)
        return stored

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
            self._side = _open_side(part, _load(part, whole=False))
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
            wanted = positions[self.part[positions] == number]
            before = int(np.searchsorted(self.part, number))
            yield from _described(self.parts[number], self.rows[wanted], wanted - before)

    def read(self, positions: NDArray[np.intp]) -> Iterator[Row]:
        """Yield the rows at ascending `positions`. Raises RunError as `lines`."""
        return (Row.from_json(orjson.loads(line)) for line in self.lines(positions))

    def place(self, position: int) -> str:
        """Return "FILE:LINE" of the row at a position."""
        number = self.part[position]
        before = int(np.searchsorted(self.part, number))
        return f"{self.parts[number]}:{position - before + 1}"


def load_scores(run: Path, *, dry: bool, whole: bool = False) -> Scores:
    """Return the records of every whole line of a run's journal.

    With `whole` every line is compared with its checksum; without, those that are read later are
    when they are read. Records missing in a side file are computed from the journal, and unless
    `dry` written to the side file where that is possible. Raises RunError that names a line which
    is not a row, not the one that was written, or a row that is there twice.
    """
    files = parts(run)
    loaded = [_load(part, whole=whole) for part in files]
    rows: Rows = np.concatenate([np.empty(0, SCORES), *(one.rows for one in loaded)])
    if (partial := lacking(rows)).any():  # a merged run may hold a row that was whole elsewhere
        manifest = read_json(run / "run.json", what="the run.json of a run") or {}
        first = np.array(first_rows(manifest.get(FIRST_ROWS)), np.uint64)
        whole_by_design = always_complete(rows, first) & ~partial
        rows["flags"][whole_by_design] |= np.uint16(Flag.ALWAYS_COMPLETE)
    scores = Scores(
        rows=rows,
        part=np.repeat(np.arange(len(files), dtype=np.uint32), [len(one.rows) for one in loaded]),
        parts=files,
    )
    _refuse_repeated(scores)
    for part, found in zip(files, loaded, strict=True):
        if found.stored != len(found.rows) and not dry:
            with suppress(RunError):  # a read-only run can be filtered as well
                _open_side(part, found).close()
    return scores


def first_rows(facts: object) -> list[int]:
    """Return the keys in the FIRST_ROWS of run.json."""
    return [int(key, 16) for key in facts] if isinstance(facts, list) else []


def replace_rows(run: Path, new: Scores) -> None:
    """Put the rows of `new` in the place of those with the same ids in a run's journal.

    The caller holds the lock of the rows. Each part is replaced whole; after a death the same call
    does the rest. Raises RunError.
    """
    keys, order = new.keys(), np.argsort(new.keys())

    def lines(part: Path, rows: Rows) -> Iterator[bytes]:
        place = np.searchsorted(keys, rows["key"], sorter=order)
        is_new = np.isin(rows["key"], keys)
        old = _described(part, rows, np.arange(len(rows)))
        for at, replaced, line in zip(place, is_new, old, strict=True):
            yield next(new.lines(order[at : at + 1])) if replaced else line

    scores = load_scores(run, dry=False, whole=True)
    for number, part in enumerate(scores.parts):
        rows = scores.rows[scores.part == number]
        if np.isin(rows["key"], keys).any():
            remove_tree(side_file(part))
            replace_by(part, lines(part, rows))


def _refuse_repeated(scores: Scores) -> None:
    """Raise RunError where two lines have the same id."""
    keys = scores.keys()
    if len(np.unique(keys)) == len(keys):
        return
    first: dict[int, int] = {}
    for position, key in enumerate(keys.tolist()):
        if first.setdefault(key, position) != position:
            raise RunError(
                f"{scores.place(position)}: is the row of {scores.place(first[key])} once more; "
                "delete one of the two lines, then run the same command again"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    """The records of a journal part's lines.

    The first `stored` of them are the whole content of its side file; None: it holds anything else.
    """

    rows: Rows
    stored: int | None


def _load(part: Path, *, whole: bool) -> _Loaded:
    """Return the records of a part; without `whole` only its first and last line are compared."""
    records, same_rules = _records(part)
    if same_rules and _describe(part, records, whole=whole):
        end = int(records["offset"][-1] + records["length"][-1]) if len(records) else 0
        more = b"".join(
            encode(_row(part, number, line), line, offset)
            for number, (offset, line) in enumerate(read_lines(part, end), len(records) + 1)
        )
        rows = np.concatenate([records, np.frombuffer(more, SCORES)])
        return _Loaded(rows=rows, stored=len(records))
    lines = match(part)
    for refusal in lines.refusals():
        raise refusal
    made = bytearray()
    for number, (offset, line) in enumerate(read_lines(part), 1):
        at = lines.record[number - 1]
        if at >= 0 and same_rules:
            record = records[at].copy()
            record["offset"] = offset
            record["check"] = zlib.crc32(record.tobytes()[:CHECKED_BYTES])
            made += record.tobytes()
        else:
            made += encode(_row(part, number, line), line, offset)
    return _Loaded(rows=np.frombuffer(bytes(made), SCORES), stored=None)


def _open_side(part: Path, loaded: _Loaded) -> Appender:
    """Open the side file for appending, with the records of `loaded` in it."""
    if loaded.stored is None and len(loaded.rows):  # in one step: it holds the only checksums
        write_atomic(side_file(part), _header() + loaded.rows.tobytes())
    side = Appender(side_file(part))
    with closing_on_error(side.close):
        if loaded.stored is None and not len(loaded.rows):
            side.cut(0)
            side.append(_header())
        elif loaded.stored is not None and len(loaded.rows) > loaded.stored:
            side.append(loaded.rows[loaded.stored :].tobytes())
    return side


def _header() -> bytes:
    return _HEADER.pack(_MAGIC, SCHEMA_VERSION, SCORES.itemsize, flags_fingerprint().encode())


def _records(part: Path) -> tuple[Rows, bool]:
    """Return the records of a side file; True where its flags follow the rules of this version."""
    side = side_file(part)
    try:
        with side.open("rb") as stream:
            header = stream.read(_HEADER.size)
        rows: Rows = np.fromfile(side, SCORES, offset=_HEADER.size)
    except OSError:
        return np.empty(0, SCORES), False
    start = _HEADER.size - len(flags_fingerprint())
    if header[:start] != _header()[:start]:
        return np.empty(0, SCORES), False
    return rows, header == _header()


def _intact(rows: Rows) -> NDArray[np.bool_]:
    """Return which records [row] agree with their own checksums."""
    data = memoryview(rows.view(np.uint8).data)
    starts = range(0, len(data), SCORES.itemsize)
    checks = (zlib.crc32(data[start : start + CHECKED_BYTES]) for start in starts)
    found: NDArray[np.bool_] = np.fromiter(checks, np.uint32, count=len(rows)) == rows["check"]
    return found & (rows["length"] > 0)


def _describe(part: Path, rows: Rows, *, whole: bool) -> bool:
    """Return True where all of a side file's records describe the part's lines, from the first."""
    try:
        is_cut = (side_file(part).stat().st_size - _HEADER.size) % SCORES.itemsize != 0
        size = part.stat().st_size
    except OSError:
        return False
    ends = np.cumsum(rows["length"], dtype=np.uint64)
    fits = (rows["offset"] == ends - rows["length"]) & (ends <= size) & _intact(rows)
    if is_cut or not fits.all():
        return False
    some = np.arange(len(rows)) if whole else np.unique([0, len(rows) - 1])[: len(rows)]
    try:
        for _ in _described(part, rows[some], some):
            pass
    except RunError:
        return False
    return True


def _described(part: Path, rows: Rows, positions: NDArray[np.intp]) -> Iterator[bytes]:
    """Yield the lines of ascending `rows`, which are at `positions` in the part.

    Raises RunError when one is not as it was written.
    """
    places = zip(
        rows["offset"].tolist(), rows["length"].tolist(), rows["crc"].tolist(), strict=True
    )
    with reading(part), part.open("rb", buffering=_READ_BYTES) as stream:
        at = 0
        for position, (offset, length, crc) in zip(positions.tolist(), places, strict=True):
            if offset != at:
                stream.seek(offset)
            line = stream.read(length)
            at = offset + length
            if zlib.crc32(line) != crc or line[-1:] != b"\n":
                raise _refusal(part, position, line)
            yield line


def _refusal(part: Path, position: int, line: bytes) -> RunError:
    """Return the error of a line that is not as it was written, or was never written whole."""
    where = f"{part}:{position + 1}"
    if HOLE in line:
        return RunError(
            f"{where}: holds zero bytes, as a power failure leaves them; run the command that made "
            "the run again (or `retry`, if its prompt had failed before): it takes the line out "
            "and makes its row anew"
        )
    return RunError(
        f"{where}: was changed after it was written (its checksum in {side_file(part).name} "
        f"differs); {_REMEDY}"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """The lines of a part: of each the position of its record in the side file, or -1.

    `intact`: which records agree with their own checksums.
    """

    part: Path
    record: list[int]
    intact: NDArray[np.bool_]

    def changed(self) -> list[int]:
        """Return the positions of lines that are not as they were written.

        A line without a record is new where no intact record is left over at the end, and is taken
        as it is where a record between those of its neighbours is damaged.
        """
        found, after = [], len(self.intact)
        last = max((at for at, record in enumerate(self.record) if record >= 0), default=-1)
        before = np.maximum.accumulate([-1, *self.record]).tolist()
        for position in reversed(range(len(self.record))):
            if self.record[position] >= 0:
                after = self.record[position]
                continue
            between = self.intact[before[position] + 1 : after]
            is_new = position > last and not between.any()
            if not is_new and between.all():
                found.append(position)
        return found[::-1]

    def refusals(self) -> Iterator[RunError]:
        """Yield the error of each of them."""
        changed = self.changed()
        for position, (_, line) in enumerate(read_lines(self.part) if changed else ()):
            if position in changed:
                yield _refusal(self.part, position, line)


def match(part: Path) -> Lines:
    """Compare every line of a part with its side file."""
    records, _ = _records(part)
    intact = _intact(records)
    keys = zip(records["crc"].tolist(), records["length"].tolist(), strict=True)
    where = {key: at for at, key in enumerate(keys) if intact[at]}
    found = [where.get((zlib.crc32(line), len(line)), -1) for _, line in read_lines(part)]
    return Lines(part=part, record=found, intact=intact)
