"""Prompts from files of text: JSONL, a JSON array, CSV, TSV, lines; each may be compressed.

All of them are read as UTF-8 (a byte-order mark is skipped) and as a stream: memory holds one row.
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from sso_data.config.run import SourceConfig
from sso_data.core.errors import InputError, one_line
from sso_data.core.paths import FETCH_LFS, LFS_POINTER
from sso_data.prompts.jsonarray import array_items
from sso_data.prompts.layouts import check_header
from sso_data.prompts.rows import BadRow, RawRow, excerpt, kind_of

MAX_LINE_BYTES = 64 * 2**20
"""A longer line is taken for a file without lines, a longer CSV field for a missing quote."""
_SKIPPED = "\ufeff\x1e"
"""Skipped at the beginning of a line: the byte-order mark, and the separator of RFC 7464."""
_UTF8_MARK = b"\xef\xbb\xbf"
_OTHER_MARKS = (b"\xff\xfe", b"\xfe\xff")
_FIRST_BYTES = 2**16


def _zstandard(raw: Any) -> Any:
    import pyarrow

    return pyarrow.CompressedInputStream(raw, "zstd")


COMPRESSIONS: Mapping[str, Callable[[Any], Any]] = {
    ".gz": lambda raw: gzip.GzipFile(fileobj=raw),
    ".zst": _zstandard,
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
}
"""Suffixes of compressed files, and what reads them."""
_OTHER_FORMATS = {
    b"\x1f\x8b": "is compressed with gzip; rename it to end in .gz",
    b"\x28\xb5\x2f\xfd": "is compressed with Zstandard; rename it to end in .zst",
    b"\xfd7zXZ": "is compressed with xz; rename it to end in .xz",
    b"BZh91AY": "is compressed with bzip2; rename it to end in .bz2",
    b"PK\x03\x04": "is a zip archive; unpack it",
    b"PAR1": "is Parquet; rename it to end in .parquet",
    LFS_POINTER: FETCH_LFS,
}
"""The first bytes of files that are not text, and what to do with such a file."""


def read_jsonl(path: Path) -> Iterator[RawRow | BadRow]:
    """Yield one JSON object a line; blank lines are skipped. Raises InputError as `opened`."""
    with opened(path) as file:
        if _first_char(file) == b"[":
            raise InputError(
                f"{path}: is a JSON array, not one object a line; rename it to end in .json"
            )
        lines = _Lines(file, path)
        for line in lines:
            if not line.strip():
                continue
            try:
                text = line.decode()
                value = STRICT.decode(text[text[0] in _SKIPPED :].rstrip())
            except (ValueError, RecursionError) as error:
                yield BadRow(where=lines.where, raw=lines.excerpt, detail=_json_problem(error))
            else:
                yield _object(value, lines.where)


def read_json_array(path: Path) -> Iterator[RawRow | BadRow]:
    """Yield the objects of one JSON array; raises InputError where the JSON itself is malformed."""
    with opened(path) as file:
        first = _first_char(file)
        if first and first != b"[":
            hint = "; if it is one object a line, rename it to end in .jsonl" * (first == b"{")
            raise InputError(f"{path}: a .json file must hold an array of rows{hint}")
        if not first:
            return
        for line, value in array_items(file, path, STRICT):
            yield _object(value, f"{path}:{line}")


def read_csv(path: Path, config: SourceConfig, *, delimiter: str) -> Iterator[RawRow | BadRow]:
    """Yield the rows of a table with a header line; one with too many or too few fields is bad.

    Raises InputError where the header or the text is malformed.
    """
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))
    with opened(path) as file:
        lines = _Lines(file, path)
        reader = csv.reader(lines.decoded(), delimiter=delimiter, strict=True)
        header: list[str] = []
        while True:
            where = f"{path}:{reader.line_num + 1}"
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise InputError(f"{where}: not valid CSV ({error}); check its quotes") from error
            if not fields:
                continue
            if not header:
                header = fields
                check_header(str(path), header, config)
            elif len(fields) != len(header):
                detail = f"the header has {len(header)} columns, this row {len(fields)}"
                yield BadRow(where=where, raw=excerpt(fields), detail=detail)
            else:
                yield RawRow(where=where, fields=dict(zip(header, fields, strict=True)))


def read_lines(path: Path, config: SourceConfig) -> Iterator[RawRow | BadRow]:
    """Yield one prompt a line, without its line end; blank lines are skipped. Raises InputError."""
    with opened(path) as file:
        lines = _Lines(file, path)
        for line in lines:
            try:
                prompt = line.decode().removesuffix("\n").removesuffix("\r")
            except UnicodeDecodeError as error:
                yield BadRow(where=lines.where, raw=lines.excerpt, detail=_not_utf8(error))
                continue
            if prompt.strip():
                yield RawRow(where=lines.where, fields={config.column: prompt})


@contextmanager
def opened(path: Path) -> "Iterator[io.BufferedReader[Any]]":
    """The bytes of a file, unpacked, after its byte-order mark; lines that end in CR end in LF.

    Raises InputError when the file is not text or cannot be read.
    """
    try:
        with path.open("rb") as raw:
            unpack = COMPRESSIONS.get(path.suffix.lower(), lambda raw: raw)
            file: io.BufferedReader[Any] = io.BufferedReader(unpack(raw), _FIRST_BYTES)
            first = file.peek(_FIRST_BYTES)
            head = first[:8]
            if head.startswith(_OTHER_MARKS) or head[:4].count(0) > 1:
                raise InputError(f"{path}:1: not UTF-8 (it is UTF-16 or UTF-32); save it as UTF-8")
            for start, remedy in _OTHER_FORMATS.items():
                if first.startswith(start):
                    raise InputError(f"{path}: {remedy}")
            if head.startswith(_UTF8_MARK):
                file.read(len(_UTF8_MARK))
            if b"\r" in first.rstrip() and b"\n" not in first:
                file = io.BufferedReader(_LineFeeds(file))
            yield file
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(one_line(f"{path}: cannot be read: {reason}")) from error


class _LineFeeds(io.RawIOBase):
    """A file whose lines end in CR alone, as old Macs and some spreadsheets wrote them."""

    def __init__(self, file: "io.BufferedReader[Any]") -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read1(len(buffer)).replace(b"\r", b"\n")
        buffer[: len(data)] = data
        return len(data)


def starts_with(path: Path) -> bytes:
    """The first byte of a file that is not white space."""
    with opened(path) as file:
        return _first_char(file)


class _Lines:
    """The lines of a file (with their ends), and the place of the current one."""

    def __init__(self, file: io.BufferedReader, path: Path) -> None:
        self._file = file
        self._path = path
        self._line = b""
        self._number = 0

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> bytes:
        self._number += 1
        self._line = self._file.readline(MAX_LINE_BYTES + 1)
        if not self._line:
            raise StopIteration
        if len(self._line) > MAX_LINE_BYTES:
            limit = MAX_LINE_BYTES // 2**20
            raise InputError(f"{self.where}: longer than {limit} MiB; write one row a line")
        return self._line

    def decoded(self) -> Iterator[str]:
        """The lines as text; raises InputError for one that is not UTF-8."""
        for line in self:
            try:
                yield line.decode()
            except UnicodeDecodeError as error:
                raise InputError(f"{self.where}: {_not_utf8(error)}; save it as UTF-8") from error

    @property
    def where(self) -> str:
        return f"{self._path}:{self._number}"

    @property
    def excerpt(self) -> str:
        return excerpt(self._line[:1000].decode("utf-8", "backslashreplace").strip())


def _first_char(file: io.BufferedReader) -> bytes:
    """The first byte at the beginning of the file that is not white space."""
    return file.peek(1).lstrip()[:1]


def _object(value: object, where: str) -> RawRow | BadRow:
    if isinstance(value, dict):
        return RawRow(where=where, fields=value)
    if isinstance(value, list) and value and all(isinstance(turn, dict) for turn in value):
        return RawRow(where=where, fields={"messages": value})  # a conversation by itself
    detail = f"{kind_of(value)}, not an object with named columns"
    return BadRow(where=where, raw=excerpt(value), detail=detail)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON; use null")


def _object_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; raises ValueError for a duplicate key: readers differ in which one counts."""
    found = dict(pairs)
    if len(found) < len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"duplicate key {excerpt(twice)!r} in an object")
    return found


STRICT = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_object_once)
"""JSON as it is defined, without NaN and Infinity, and without duplicate keys in an object."""


def _json_problem(error: ValueError | RecursionError) -> str:
    match error:
        case UnicodeDecodeError():
            return _not_utf8(error)
        case json.JSONDecodeError():
            return one_line(f"not valid JSON ({error.msg} at column {error.colno})")
        case RecursionError():
            return "not valid JSON (nested too deeply)"
        case _:
            return one_line(f"not valid JSON ({str(error).split(';')[0]})")


def _not_utf8(error: UnicodeDecodeError) -> str:
    return f"not UTF-8 (byte 0x{error.object[error.start]:02x} at byte {error.start + 1})"
